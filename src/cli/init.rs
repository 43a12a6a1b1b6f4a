//! `fogbeat init`: a gateway from a few answers.

mod ask;

use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Common, Failure, Kind, certificate, doctor, output};
use crate::clock::{Clock, SystemClock};
use crate::config::{self, Config, DEFAULT_FILE, timezone};
use crate::doctor::Options as Examination;
use crate::files;
use crate::init::{self, PlaceError, Way, Wishes};
use crate::site::{Files, Summary, ensure};
use ask::Asker;

pub const AFTER_HELP: &str = "On a terminal it asks what is not given (Enter takes the default); elsewhere, and with --yes, \
    what is not given keeps its default.\n\
    Example: fogbeat init --site gym --id gym-12 --lan --uplink directory";

/// Where devices on the network find the encrypted port.
const LAN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 8883);
/// Lets the service see the machine's addresses; see the file itself.
const LAN_DROP_IN: &str = "sudo install -D -m 644 /usr/share/doc/fogbeat/examples/lan.conf \
    /etc/systemd/system/fogbeat.service.d/lan.conf && sudo systemctl daemon-reload";
/// The CA's certificate beside the configuration, for everybody to fetch.
const CA_COPY: &str = "site-ca.pem";

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Uplink {
    /// Files below the state directory, read by the same SQL; needs no account
    Directory,
    /// Amazon Data Firehose
    Firehose,
    /// AWS IoT Core
    #[value(name = "iot_core")]
    IotCore,
    /// Any MQTT broker, such as a bigger fogbeat
    Mqtt,
}

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Where the gateway stands; part of every line that is delivered
    #[arg(long, value_name = "NAME")]
    site: Option<String>,
    /// The gateway's name; part of every line. Default: one that is made once and kept
    #[arg(long, value_name = "NAME")]
    id: Option<String>,
    /// The site's time zone; default: the system's
    #[arg(long, value_name = "ZONE")]
    timezone: Option<String>,
    /// Where batches go; default: directory
    #[arg(long, value_enum, value_name = "KIND")]
    uplink: Option<Uplink>,
    /// directory: where the files go
    #[arg(long, value_name = "DIR")]
    path: Option<PathBuf>,
    /// firehose: the stream
    #[arg(long, value_name = "NAME")]
    stream: Option<String>,
    /// firehose: its region; default: AWS_REGION
    #[arg(long, value_name = "REGION")]
    region: Option<String>,
    /// iot_core: the account's data endpoint
    #[arg(long, value_name = "HOST")]
    endpoint: Option<String>,
    /// iot_core: the rule that gets the batches; default: fogbeat
    #[arg(long, value_name = "NAME")]
    rule: Option<String>,
    /// mqtt: the broker, mqtts://host:port
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// mqtt: the user
    #[arg(long, value_name = "NAME")]
    username: Option<String>,
    /// mqtt: a file with the user's password
    #[arg(long, value_name = "FILE", requires = "username")]
    password_file: Option<PathBuf>,
    /// mqtt: the broker's CA; default: the public ones
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Hear wearables over Bluetooth (the default)
    #[arg(long, overrides_with = "no_bluetooth")]
    bluetooth: bool,
    /// Leave the radio alone
    #[arg(long)]
    no_bluetooth: bool,
    /// Let devices on the network publish: MQTT over TLS, with a certificate of the site's own; by itself on port 8883 of
    /// every address
    #[arg(long, value_name = "ADDRESS:PORT", num_args = 0..=1, require_equals = true, default_missing_value = "0.0.0.0:8883")]
    lan: Option<SocketAddr>,
    /// Announce that port on the network
    #[arg(long, requires = "lan")]
    mdns: bool,
    /// Where readings are kept; default: /var/lib/fogbeat
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Write the configuration there; default: the file given with --config, else /etc/fogbeat/fogbeat.toml
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replace a configuration that was edited; it is kept with .old at its end
    #[arg(long)]
    force: bool,
    /// Ask nothing, also on a terminal
    #[arg(long, short)]
    yes: bool,
}

pub fn run(common: &Common, options: &Options) -> Result<(), Failure> {
    let place =
        options.output.clone().or_else(|| common.config.clone()).unwrap_or_else(|| DEFAULT_FILE.into());
    let asker = if options.yes { Asker::Defaults } else { Asker::of_terminal() };
    asker.say("fogbeat: a gateway in a few answers. Enter takes what stands in brackets.");
    let wishes = wishes(options, &asker)?;
    let text = init::configuration(&wishes).map_err(Failure::defect)?;
    let config = config::parse("these answers", &text, crate::source::judge)
        .map_err(|problems| Failure::new(Kind::Usage, problems))?;
    if !options.force {
        init::may_replace(&place, &text)?;
    }
    // Before the configuration: it is the last to change, and says nothing that is not there.
    let certified = certified(&config, &place)?;
    init::put(&place, &text)?;
    eprintln!("{} written.", place.display());
    if let Some((summary, copy)) = &certified {
        eprintln!("Devices that publish need {} (compare the CA's fingerprint):", copy.display());
        output::print(&certificate::told(summary))?;
    }
    // How things stand before the first start; what was asked for is done either way.
    let report = doctor::examine(&Examination {
        config: Some(place.clone()),
        listen: Duration::ZERO,
        ..Examination::default()
    });
    eprint!(
        "\n{}\n{}",
        doctor::screen(&report, console::colors_enabled_stderr()),
        next(&wishes, &place, certified.as_ref())
    );
    Ok(())
}

fn wishes(options: &Options, asker: &Asker) -> Result<Wishes, Failure> {
    let system = timezone::of_system().map(str::to_owned);
    let site = asker
        .text("Site: where does it stand?", options.site.clone(), None, |it| key("gateway", "site", it))?;
    let id = asker.text("Name of this gateway (empty: one is made)", options.id.clone(), None, |it| {
        key("gateway", "id", it)
    })?;
    let timezone =
        asker.text("Time zone", options.timezone.clone(), system, |it| key("site", "timezone", it))?;
    let way = way(options, asker)?;
    let bluetooth = match (options.bluetooth, options.no_bluetooth) {
        (_, true) => false,
        (true, _) => true,
        _ => asker.yes("Hear wearables over Bluetooth?", true)?,
    };
    let lan = match options.lan {
        Some(bind) => Some(bind),
        None => {
            let question = "Will devices publish over the network (MQTT with TLS, port 8883)?";
            asker.yes(question, false)?.then_some(LAN)
        }
    };
    let reachable = lan.is_some_and(|bind| !bind.ip().is_loopback());
    let mdns = reachable && (options.mdns || asker.yes("Announce it on the network (mDNS)?", false)?);
    let state_dir = options.state_dir.clone();
    Ok(Wishes { site, id, timezone, state_dir, way, bluetooth, lan, mdns })
}

/// Uplink kinds in the order of [`Uplink`].
const KINDS: [(&str, Uplink); 4] = [
    ("files on this machine (no account needed)", Uplink::Directory),
    ("Amazon Data Firehose", Uplink::Firehose),
    ("AWS IoT Core", Uplink::IotCore),
    ("an MQTT broker, or a bigger fogbeat", Uplink::Mqtt),
];

fn way(options: &Options, asker: &Asker) -> Result<Way, Failure> {
    let kind = match options.uplink {
        Some(kind) => kind,
        None => asker.choice("Where do batches go?", &KINDS)?,
    };
    stray(options, kind)?;
    let any = |_: &str| Ok(());
    let must = |question: &str, flag: &str, given: &Option<String>| {
        let answer = asker.text(question, given.clone(), None, any)?;
        answer.ok_or_else(|| usage(format!("this uplink needs {flag}")))
    };
    Ok(match kind {
        Uplink::Directory => Way::Directory { path: options.path.clone() },
        Uplink::Firehose => Way::Firehose {
            stream: must("Stream", "--stream NAME", &options.stream)?,
            region: asker.text("Region (empty: AWS_REGION)", options.region.clone(), None, any)?,
        },
        Uplink::IotCore => Way::IotCore {
            endpoint: must(
                "Data endpoint (aws iot describe-endpoint --endpoint-type iot:Data-ATS)",
                "--endpoint HOST",
                &options.endpoint,
            )?,
            rule: asker
                .text("Rule", options.rule.clone(), Some("fogbeat".to_owned()), any)?
                .unwrap_or_else(|| "fogbeat".to_owned()),
        },
        Uplink::Mqtt => {
            let path = |question: &str, given: &Option<PathBuf>| -> Result<Option<PathBuf>, Failure> {
                let given = given.as_ref().map(|path| path.display().to_string());
                Ok(asker.text(question, given, None, any)?.map(PathBuf::from))
            };
            let url = must("Broker (mqtts://host:port)", "--url URL", &options.url)?;
            let username = asker.text("User (empty: none)", options.username.clone(), None, any)?;
            let password_file = match username {
                Some(_) => path("File with the password", &options.password_file)?,
                None => None,
            };
            let ca = path("The broker's CA (empty: the public ones)", &options.ca)?;
            Way::Mqtt { url, username, password_file, ca }
        }
    })
}

/// A key of another kind of uplink would be lost without a word.
fn stray(options: &Options, kind: Uplink) -> Result<(), Failure> {
    let given = [
        ("--path", options.path.is_some(), Uplink::Directory),
        ("--stream", options.stream.is_some(), Uplink::Firehose),
        ("--region", options.region.is_some(), Uplink::Firehose),
        ("--endpoint", options.endpoint.is_some(), Uplink::IotCore),
        ("--rule", options.rule.is_some(), Uplink::IotCore),
        ("--url", options.url.is_some(), Uplink::Mqtt),
        ("--username", options.username.is_some(), Uplink::Mqtt),
        ("--ca", options.ca.is_some(), Uplink::Mqtt),
    ];
    match given.into_iter().find(|(_, given, of)| *given && *of != kind) {
        Some((flag, _, of)) => {
            let name = clap::ValueEnum::to_possible_value(&of).map(|value| value.get_name().to_owned());
            Err(usage(format!("{flag} belongs to --uplink {}", name.unwrap_or_default())))
        }
        None => Ok(()),
    }
}

/// Whether the configuration takes `value` for a key; else why not.
fn key(section: &str, key: &str, value: &str) -> Result<(), String> {
    let text = format!("[{section}]\n{key} = {}\n", toml::Value::from(value));
    match config::from_toml(&text) {
        Ok(_) => Ok(()),
        Err(problems) => Err(problems
            .0
            .first()
            .map_or_else(String::new, |problem| format!("{}; {}", problem.what, problem.remedy))),
    }
}

/// The listener's certificate, made if it is not there, and the copy of the CA's for devices.
fn certified(config: &Config, place: &Path) -> Result<Option<(Summary, PathBuf)>, Failure> {
    let Some(tls) = config.mqtt.listener.tls.as_ref().filter(|tls| tls.is_own(&config.gateway.state_dir))
    else {
        return Ok(None);
    };
    let state_dir = &config.gateway.state_dir;
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| Failure::from(PlaceError::File { path, source })
    };
    if !state_dir.is_dir() {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(state_dir);
        made.map_err(failed(state_dir))?;
    }
    let names = certificate::names(config, tls)?;
    let now = SystemClock::new(&config.clock, state_dir).now().wall_ms;
    let now = time::OffsetDateTime::from_unix_timestamp(now / 1000).map_err(Failure::defect)?;
    let files = Files::below(state_dir);
    ensure(&files, &names, now)?;
    let copy = place.with_file_name(CA_COPY);
    let text = std::fs::read(&files.ca).map_err(failed(&files.ca))?;
    let owner = std::fs::metadata(place).ok().map(|meta| (meta.uid(), meta.gid()));
    files::replace_with(&copy, &text, files::Access { mode: 0o644, owner }).map_err(failed(&copy))?;
    Ok(Some((Summary::read(&files, &names)?, copy)))
}

/// What there is to do now.
fn next(wishes: &Wishes, place: &Path, certified: Option<&(Summary, PathBuf)>) -> String {
    let packaged = place == Path::new(DEFAULT_FILE);
    let fogbeat = match packaged {
        true => "sudo fogbeat".to_owned(),
        false => format!("fogbeat --config {}", place.display()),
    };
    let mut steps = Vec::new();
    if packaged && wishes.lan.is_some() {
        steps.push(format!("{LAN_DROP_IN}   # the certificate follows new addresses, and mDNS works"));
    }
    if let Way::IotCore { endpoint, .. } = &wishes.way {
        steps.push(format!(
            "{fogbeat} enroll --endpoint {endpoint} --template NAME --claim-cert FILE --claim-key FILE"
        ));
    }
    steps.push(match packaged {
        true => "sudo systemctl restart fogbeat".to_owned(),
        false => format!("{fogbeat} run"),
    });
    steps.push(format!("{fogbeat} device add strap-1          # prints the device's secret, once"));
    steps.push(match certified {
        Some((summary, ca)) => format!(
            "mosquitto_pub -h {} -p {} --cafile {} -q 1 -u strap-1 -P SECRET -t hr/strap-1 -m '{{\"bpm\":71}}'",
            summary.names.iter().find(|name| name.ends_with(".local")).map_or("localhost", String::as_str),
            wishes.lan.map_or(LAN.port(), |bind| bind.port()),
            ca.display()
        ),
        None => "mosquitto_pub -q 1 -u strap-1 -P SECRET -t hr/strap-1 -m '{\"bpm\":71}'".to_owned(),
    });
    if wishes.bluetooth {
        steps.push(format!(
            "{fogbeat} scan                         # wearables on the air; --allow takes one in"
        ));
    }
    steps.push(format!("{fogbeat} status"));
    let steps: String = steps.iter().map(|step| format!("  {step}\n")).collect();
    format!("Next:\n{steps}")
}

fn usage(text: String) -> Failure {
    Failure::new(Kind::Usage, anyhow::anyhow!(text))
}

impl From<PlaceError> for Failure {
    fn from(error: PlaceError) -> Self {
        let kind = if matches!(error, PlaceError::Edited(_)) { Kind::Usage } else { Kind::Unavailable };
        Self::new(kind, error)
    }
}
