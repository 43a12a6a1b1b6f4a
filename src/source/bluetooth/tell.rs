//! What the operator is told, in the log. No wearable's name, and no heart rate.

use super::core::Note;
use super::ladder::Step;
use super::metrics::Metrics;

/// Tells the operator.
pub fn tell(note: &Note, metrics: &Metrics) {
    match note {
        Note::Silent(_) => {
            metrics.silent.inc();
            tracing::warn!(
                "a wearable is connected and sends no heart rate: is it in use by another app or console? see `fogbeat status`"
            );
        }
        Note::Rival(_) => tracing::warn!(
            "two wearables in reach go by one listed name, and only the first is heard: list them by address; see `fogbeat scan`"
        ),
        Note::Step(adapter, step, first) => {
            metrics.step(*step);
            if *step == Step::ReportStuck && *first {
                tracing::warn!(
                    %adapter,
                    "the Bluetooth adapter hears nothing, and nothing helped: either nobody is in reach, or it is stuck; plug it anew, or restart bluetooth.service"
                );
            } else if *first {
                tracing::info!(%adapter, step = step.label(), "the Bluetooth adapter hears nothing of what is on the air");
            } else {
                tracing::debug!(%adapter, step = step.label(), "the Bluetooth adapter still hears nothing of what is on the air");
            }
        }
        Note::Power(adapter, true) => tracing::info!(%adapter, "Bluetooth adapter"),
        Note::Power(adapter, false) => tracing::info!(
            %adapter,
            "the Bluetooth adapter is switched off and is left so; `bluetoothctl power on` switches it on"
        ),
        Note::Recovered(adapter, step) => {
            tracing::info!(%adapter, after = step.label(), "the Bluetooth adapter hears again");
        }
    }
}
