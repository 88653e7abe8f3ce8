//! A server for the tree: HTTP for everybody, HTTPS for what is secret, and dnsmasq beside it for DHCP and TFTP.
//!
//! In: the tree in the output folder, the folder with who is expected, something that makes seeds. Out: answers, and a journal of
//! what each node did. `files` gives files out, `hub` knows what is going on, `http` turns requests into answers. What must hold: a
//! seed goes to one machine per arming, and only over TLS; a file is given out as it is on the disk, which the tree's writer only
//! ever replaces as a whole.
//! Another kind of answer is a line in `http`.

mod files;
mod http;
mod hub;

pub use hub::{BUNDLE, Hub, Known, Part, Seeds};

use crate::base::error::{Context, Error, Result};
use files::{Direct, Sending};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// How long a client may take for a request's head, and for the handshake of TLS.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where secrets are given out.
pub struct Secure {
    /// Where to listen.
    pub address: SocketAddr,
    /// The server's certificate, as PEM.
    pub certificate: String,
    /// Its key, as PEM.
    pub key: String,
}

/// Serves until the process is told to end (SIGINT or SIGTERM). `ready` hears once connections are accepted.
///
/// # Errors
/// An address cannot be listened on, or the certificate is none.
pub fn run(hub: Hub, address: SocketAddr, secure: Option<Secure>, ready: impl FnOnce()) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().doing(|| "starting the server's threads")?;
    runtime.block_on(async {
        let hub = Arc::new(hub);
        let plain = listen(address).await?;
        let door = match secure {
            Some(secure) => Some((listen(secure.address).await?, acceptor(&secure)?)),
            None => None,
        };
        ready();
        tokio::spawn(accept(plain, hub.clone()));
        if let Some((listener, acceptor)) = door {
            tokio::spawn(accept_secure(listener, acceptor, hub));
        }
        told_to_end().await
    })
}

async fn told_to_end() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut term = signal(SignalKind::terminate()).doing(|| "waiting for signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).doing(|| "waiting for signals")?;
    tokio::select! {
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

async fn listen(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        Error::new(format!("listening on {address}: {error}")).next(
            "look who has that port (ss -ltnp), whether this machine has that address, or write another one under [provision]",
        )
    })
}

fn acceptor(secure: &Secure) -> Result<TlsAcceptor> {
    let what = || "making the server's TLS";
    let certificate = CertificateDer::from_pem_slice(secure.certificate.as_bytes()).map_err(Error::new).doing(what)?;
    let key = PrivateKeyDer::from_pem_slice(secure.key.as_bytes()).map_err(Error::new).doing(what)?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(Error::new)
        .doing(what)?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .map_err(Error::new)
        .doing(what)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn server() -> http1::Builder {
    let mut server = http1::Builder::new();
    // Boot loaders compare names of headers with the capitals that they know (GRUB by UEFI's HTTP looks for Content-Length).
    server.timer(TokioTimer::new()).header_read_timeout(PATIENCE).title_case_headers(true);
    server
}

async fn accept(listener: TcpListener, hub: Arc<Hub>) {
    loop {
        let Some(stream) = next(&listener).await else { continue };
        let hub = hub.clone();
        tokio::spawn(async move {
            let sending = Sending::default();
            let io = TokioIo::new(Direct::new(stream, sending.clone()));
            let service = service_fn(move |request| {
                let (hub, sending) = (hub.clone(), sending.clone());
                async move { Ok::<_, Infallible>(http::plain(hub, sending, request).await) }
            });
            // A client that goes away in the middle is no error of ours.
            let _ = server().serve_connection(io, service).await;
        });
    }
}

async fn accept_secure(listener: TcpListener, acceptor: TlsAcceptor, hub: Arc<Hub>) {
    loop {
        let Some(stream) = next(&listener).await else { continue };
        let (hub, acceptor) = (hub.clone(), acceptor.clone());
        tokio::spawn(async move {
            let Ok(Ok(stream)) = tokio::time::timeout(PATIENCE, acceptor.accept(stream)).await else { return };
            let service = service_fn(move |request| {
                let hub = hub.clone();
                async move { Ok::<_, Infallible>(http::secure(hub, request).await) }
            });
            let _ = server().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn next(listener: &TcpListener) -> Option<tokio::net::TcpStream> {
    match listener.accept().await {
        Ok((stream, _)) => {
            let _ = stream.set_nodelay(true);
            Some(stream)
        }
        Err(_) => {
            // No file descriptors left, mostly: some will be free soon.
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}
