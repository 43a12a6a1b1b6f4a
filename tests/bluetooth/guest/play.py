"""Plays one scenario in the machine, from the empty stage to the delivered files in /share."""
import asyncio
import sys
import traceback

import scenarios
from stage import SHARE, Failed, Stage

# A machine under emulation meets this only when something hangs; the host's own limit comes after it.
SLACK_SECONDS = 600


async def play(name):
    scenario = scenarios.named(name, (SHARE / "options").read_text().split())
    stage = Stage(scenario)
    stage.note("plan", scenario=name, devices=scenario.devices(stage.straps), passers_by=scenario.passers_by)
    code = 0
    try:
        async with asyncio.timeout(scenario.seconds + SLACK_SECONDS):
            await stage.set_up()
            stage.configure()
            if not scenario.bare:
                stage.start_gateway()
            await scenario.act(stage)
            await stage.quiet()
            await stage.stop_gateway()
    except (Failed, TimeoutError) as failure:
        stage.note("failed", reason=str(failure) or "out of time")
        code = 1
    except Exception:
        traceback.print_exc()
        stage.note("failed", reason="a defect of the rig, see play.log")
        code = 2
    finally:
        if code:
            await stage.last_words()
        stage.hand_over()
    return code


sys.exit(asyncio.run(play((SHARE / "scenario").read_text().strip())))
