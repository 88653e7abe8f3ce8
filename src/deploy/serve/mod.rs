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
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// How long a client may take for a request's head, and for the handshake of TLS.
const PATIENCE: Duration = Duration::from_secs(20);

/// How much of an answer may lie in a connection unsent, in bytes. With the kernel's own bound, which grows to megabytes, many
/// clients of one file drift apart, and what one has read has left the caches when the next one comes to it: 200 of them get 1.4
/// times as much with 32 KiB (`benches/serve.sh`), for half as much again of this process's time.
const UNSENT: libc::c_int = 32 << 10;

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
        tokio::spawn(accept(plain, hub.clone(), lanes()?));
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

/// One thread for each core, each with connections of its own: what is known of a connection stays in that core's caches, and no
/// thread wakes another one. They end with the process.
fn lanes() -> Result<Vec<Handle>> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let lane = |number: usize| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        std::thread::Builder::new()
            .name(format!("lane-{number}"))
            .spawn(move || runtime.block_on(std::future::pending::<()>()))?;
        Ok(handle)
    };
    (0..cores).map(lane).collect::<std::io::Result<_>>().doing(|| "starting the server's threads")
}

async fn accept(listener: TcpListener, hub: Arc<Hub>, lanes: Vec<Handle>) {
    for lane in lanes.iter().cycle() {
        let Some(stream) = next(&listener).await.and_then(|stream| stream.into_std().ok()) else { continue };
        let hub = hub.clone();
        lane.spawn(async move {
            // It belongs to the lane's own poll from now on.
            let Ok(stream) = TcpStream::from_std(stream) else { return };
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

/// Bounds what lies in a connection and has not been sent. Without that it would only be slower, so that nobody hears of an error.
fn leave_unsent(stream: &TcpStream, bytes: libc::c_int) {
    let size = size_of_val(&bytes) as libc::socklen_t;
    // SAFETY: the option's value is a number, which lives until the call is over.
    unsafe {
        libc::setsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, (&raw const bytes).cast(), size);
    }
}

async fn next(listener: &TcpListener) -> Option<TcpStream> {
    match listener.accept().await {
        Ok((stream, _)) => {
            let _ = stream.set_nodelay(true);
            leave_unsent(&stream, UNSENT);
            Some(stream)
        }
        Err(_) => {
            // No file descriptors left, mostly: some will be free soon.
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}
