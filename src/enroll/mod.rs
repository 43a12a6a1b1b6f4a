//! Fleet provisioning by claim (AWS IoT Core Developer Guide, "Device provisioning MQTT API").
//!
//! The key is made here and never leaves: what is sent is a signing request. The certificate that comes back is
//! registered with the template's parameters, proven by a connection of its own, and only then put in its place, so that
//! a certificate that works is never replaced by one that does not. After that the claim is removed: nobody who gets hold
//! of this gateway can enroll another one with it.

mod talk;

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{CertificateParams, DnType, KeyPair};

use crate::config::{self, MqttVersion};
use crate::files;
use crate::forward::Failure;
use crate::forward::mqtt::{Session, Settings, WireBytes, session_context};
use crate::forward::{Origin, mqtt};
use crate::net::{IdentityError, IdentityFiles};
use crate::reading::validity::DeviceTimeWindow;
use talk::Talk;

/// What is to be done.
#[derive(Debug, Clone)]
pub struct Wish {
    pub endpoint: String,
    pub port: u16,
    pub template: String,
    pub claim_certificate: PathBuf,
    pub claim_key: PathBuf,
    /// CAs of the endpoint; `None`: the public ones.
    pub ca: Option<PathBuf>,
    pub proxy: Option<String>,
    pub proxy_credentials: Option<PathBuf>,
    /// For the template.
    pub parameters: BTreeMap<String, String>,
    /// The gateway's id: common name of the request, and client id until the thing has a name.
    pub gateway: String,
    pub state_dir: PathBuf,
    /// Where the certificate and its key go.
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub keep_claim: bool,
    /// Longest wait for each answer.
    pub timeout: Duration,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Enrolled {
    pub thing: String,
    pub certificate_id: String,
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// What the template gives devices to know.
    pub configuration: serde_json::Value,
    /// The claim's files are gone.
    pub claim_removed: bool,
}

/// Why the gateway is not enrolled. Nothing that worked before was touched.
#[derive(Debug, thiserror::Error)]
pub enum EnrollError {
    #[error("{what}: {}{}", .failure.message, remedy(.failure))]
    Connection { what: &'static str, failure: Box<Failure> },
    #[error("{what} was refused: {code}: {message}")]
    Rejected { what: &'static str, code: String, message: String },
    #[error(
        "the claim's IoT policy does not let it subscribe to {0}; allow iot:Subscribe and iot:Receive on it, as in AWS's \
         example policy for provisioning claims"
    )]
    NotSubscribed(String),
    #[error(
        "{what}: no answer within {timeout:?}; does the template exist, and does the claim's policy allow it?"
    )]
    Silent { what: &'static str, timeout: Duration },
    #[error("{what}: the answer is not understood ({cause})")]
    Answer { what: &'static str, cause: String },
    #[error("a key or its signing request cannot be made: {0}")]
    Key(#[from] rcgen::Error),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("{path}: {source}")]
    File { path: PathBuf, source: io::Error },
}

fn remedy(failure: &Failure) -> String {
    failure.remedy.as_ref().map(|remedy| format!("; {remedy}")).unwrap_or_default()
}

/// Enrolls the gateway.
///
/// # Errors
/// [`EnrollError`]
pub async fn enroll(wish: &Wish) -> Result<Enrolled, EnrollError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, wish.gateway.as_str());
    let request = params.serialize_request(&key)?.pem()?;

    let claim = (wish.claim_certificate.clone(), wish.claim_key.clone());
    let settings = settings(wish, &wish.gateway, claim);
    let mut talk =
        Talk::open(connect("connecting with the claim", &settings).await?, &settings, wish.timeout);
    let ask = talk::Create { certificate_signing_request: &request };
    let created: talk::Created =
        talk.ask("CreateCertificateFromCsr", "$aws/certificates/create-from-csr/json", &ask).await?;
    let register = talk::Register {
        certificate_ownership_token: &created.certificate_ownership_token,
        parameters: &wish.parameters,
    };
    let topic = format!("$aws/provisioning-templates/{}/provision/json", wish.template);
    let registered: talk::Registered = talk.ask("RegisterThing", &topic, &register).await?;
    talk.close().await;

    let pending = Pending::write(wish, &created.certificate_pem, &key.serialize_pem())?;
    let pair = (pending.certificate.clone(), pending.key.clone());
    let own = self::settings(wish, &registered.thing_name, pair);
    connect("connecting with the new certificate", &own).await?.close().await;
    pending.take_place(wish)?;
    let claim_removed = !wish.keep_claim && remove(wish);
    Ok(Enrolled {
        thing: registered.thing_name,
        certificate_id: created.certificate_id,
        certificate: wish.certificate.clone(),
        key: wish.key.clone(),
        configuration: registered.device_configuration,
        claim_removed,
    })
}

async fn connect(what: &'static str, settings: &Settings) -> Result<Session, EnrollError> {
    let files = settings.files.clone();
    let alpn = settings.alpn;
    let identity = match tokio::task::spawn_blocking(move || files.read(alpn)).await {
        Ok(identity) => identity?,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    };
    let opened = Session::open(settings, Some(&identity), WireBytes::default()).await;
    opened.map_err(|none| EnrollError::Connection { what, failure: Box::new(none.verdict.failure) })
}

fn settings(wish: &Wish, client_id: &str, pair: (PathBuf, PathBuf)) -> Settings {
    let iot = config::IotCore {
        endpoint: wish.endpoint.clone(),
        port: wish.port,
        thing: Some(client_id.to_owned()),
        rule: None,
        topic: Some("$aws/certificates/create-from-csr/json".to_owned()),
        certificate: None,
        key: None,
        ca: wish.ca.clone(),
        version: MqttVersion::V5,
        proxy: wish.proxy.clone(),
        proxy_credentials_file: wish.proxy_credentials.clone(),
        timeout: wish.timeout,
        batches: true,
        shadow: false,
        live: None,
    };
    let origin = Origin {
        gateway: wish.gateway.clone(),
        site: None,
        state_dir: wish.state_dir.clone(),
        pseudonyms: None,
        window: DeviceTimeWindow::default(),
    };
    let settings = mqtt::Settings::iot_core("enroll", &iot, &origin);
    Settings { files: IdentityFiles { ca: wish.ca.clone(), pair: Some(pair) }, ..settings }
}

/// Certificate and key that are not proven yet.
struct Pending {
    certificate: PathBuf,
    key: PathBuf,
}

impl Pending {
    fn write(wish: &Wish, certificate: &str, key: &str) -> Result<Self, EnrollError> {
        let beside = |path: &Path| {
            let mut name = path.file_name().unwrap_or_default().to_owned();
            name.push(".pending");
            path.with_file_name(name)
        };
        let pending = Self { certificate: beside(&wish.certificate), key: beside(&wish.key) };
        for (path, text) in [(&pending.key, key), (&pending.certificate, certificate)] {
            private_directory(path, &wish.state_dir)?;
            write(path, text)?;
        }
        Ok(pending)
    }

    /// Key first: who reads the pair meanwhile finds that it does not fit, and reads it again.
    fn take_place(self, wish: &Wish) -> Result<(), EnrollError> {
        for (from, to) in [(&self.key, &wish.key), (&self.certificate, &wish.certificate)] {
            let text = std::fs::read_to_string(from).map_err(failed(from))?;
            write(to, &text)?;
        }
        Ok(())
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        for path in [&self.key, &self.certificate] {
            // One that stays is overwritten by the next attempt.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Only the gateway's user may look into the directory; it belongs to whom the state directory belongs.
fn private_directory(file: &Path, state_dir: &Path) -> Result<(), EnrollError> {
    let Some(directory) = file.parent().filter(|directory| !directory.is_dir()) else { return Ok(()) };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed(directory))?;
    if let Ok(owner) = std::fs::metadata(state_dir).map(|state| (state.uid(), state.gid()))
        && rustix::process::geteuid().is_root()
    {
        std::os::unix::fs::chown(directory, Some(owner.0), Some(owner.1)).map_err(failed(directory))?;
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<(), EnrollError> {
    files::replace(path, text.as_bytes()).map_err(failed(path))
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> EnrollError {
    let path = path.to_owned();
    move |source| EnrollError::File { path, source }
}

/// Removes the claim; `false`: some of it is still there.
fn remove(wish: &Wish) -> bool {
    let gone = |path: &Path| std::fs::remove_file(path).is_ok() || !path.exists();
    // Both are tried.
    let (certificate, key) = (gone(&wish.claim_certificate), gone(&wish.claim_key));
    certificate && key
}

/// What people are told of a connection that ended.
fn ended(failure: Failure, what: &'static str) -> EnrollError {
    EnrollError::Connection { what, failure: Box::new(failure) }
}

/// The verdict's words for `settings`.
fn context(settings: &Settings) -> mqtt::VerdictContext<'_> {
    session_context(settings, None)
}
