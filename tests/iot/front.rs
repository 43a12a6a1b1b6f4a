//! TLS as AWS has it, in front of something that speaks none: it notes what a client says first, asks for a certificate,
//! and on port 443 for the ALPN name, without which AWS does not know that it is MQTT.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{Acceptor, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::LazyConfigAcceptor;

use crate::pki::{Pair, Pki};

/// What a client has said before anything else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Server name indication.
    pub name: Option<String>,
    pub alpn: Vec<String>,
}

pub struct Front {
    pub address: SocketAddr,
    hellos: Arc<Mutex<Vec<Hello>>>,
}

/// Where the fronts of all tests live.
pub fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
    })
}

impl Front {
    /// `alpn`: the name that must be agreed on. `clients`: a certificate that the CA has signed is required.
    pub fn start(pki: &Pki, server: &Pair, clients: bool, alpn: Option<&str>, behind: SocketAddr) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = if clients {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_file(&pki.ca).unwrap()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.unwrap())
        } else {
            builder.with_no_client_auth()
        };
        let chain = vec![CertificateDer::from_pem_file(&server.certificate).unwrap()];
        let mut config =
            builder.with_single_cert(chain, PrivateKeyDer::from_pem_file(&server.key).unwrap()).unwrap();
        config.alpn_protocols = alpn.into_iter().map(|name| name.as_bytes().to_vec()).collect();
        let (config, hellos) = (Arc::new(config), Arc::new(Mutex::new(Vec::new())));
        let listener = runtime().block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let (noted, wanted) = (Arc::clone(&hellos), alpn.map(str::to_owned));
        runtime().spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                runtime().spawn(pass(
                    client,
                    Arc::clone(&config),
                    Arc::clone(&noted),
                    wanted.clone(),
                    behind,
                ));
            }
        });
        Self { address, hellos }
    }

    pub fn hellos(&self) -> Vec<Hello> {
        self.hellos.lock().unwrap().clone()
    }
}

/// One connection; whatever goes wrong ends it.
async fn pass(
    client: TcpStream,
    config: Arc<ServerConfig>,
    hellos: Arc<Mutex<Vec<Hello>>>,
    alpn: Option<String>,
    behind: SocketAddr,
) -> Option<()> {
    let start = LazyConfigAcceptor::new(Acceptor::default(), client).await.ok()?;
    let hello = {
        let said = start.client_hello();
        let names = said.alpn().into_iter().flatten();
        Hello {
            name: said.server_name().map(str::to_owned),
            alpn: names.map(|name| String::from_utf8_lossy(name).into_owned()).collect(),
        }
    };
    hellos.lock().unwrap().push(hello.clone());
    if alpn.is_some_and(|wanted| !hello.alpn.contains(&wanted)) {
        return None;
    }
    let mut client = start.into_stream(config).await.ok()?;
    let mut server = TcpStream::connect(behind).await.ok()?;
    // Either side may end it.
    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
    Some(())
}
