//! Takes connections from a listener and, where TLS is spoken, through the handshake, without any
//! of them waiting for another.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;

use crate::config::Limits;
use crate::peer::Connection;
use crate::tls::ServerTls;

/// Where connections go. A rendezvous, since whoever serves takes them at once.
pub(crate) type Ready = mpsc::Sender<Result<Connection, Infallible>>;

/// Pause after an error of the listener, such as too many open files: it will not be gone at once.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// Accepts connections for as long as it is polled. At a limit they wait in the listener's queue.
pub(crate) async fn accept(
    listener: TcpListener,
    tls: Option<Arc<ServerTls>>,
    limits: Limits,
    ready: Ready,
) -> Infallible {
    let connections = Arc::new(Semaphore::new(limits.connections_max));
    let handshakes = Arc::new(Semaphore::new(limits.handshakes_max));
    loop {
        let place = place(&connections, "connections").await;
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ERROR_PAUSE).await;
                continue;
            }
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, remote_addr = %address, "the connection is gone");
            continue;
        }
        let Some(tls) = &tls else {
            // Whoever serves ends only with this.
            let _ended = ready
                .send(Ok(Connection::plain(stream, address, place)))
                .await;
            continue;
        };
        let shaking = self::place(&handshakes, "TLS handshakes").await;
        let (tls, ready) = (tls.clone(), ready.clone());
        tokio::spawn(async move {
            match timeout(limits.handshake, shake(&tls, stream, address, place)).await {
                Ok(Ok(connection)) => {
                    let _ended = ready.send(Ok(connection)).await;
                }
                Ok(Err(error)) => {
                    tracing::info!(%error, remote_addr = %address, "TLS handshake failed");
                }
                Err(_) => tracing::info!(remote_addr = %address, "TLS handshake took too long"),
            }
            drop(shaking);
        });
    }
}

async fn shake(
    tls: &ServerTls,
    stream: TcpStream,
    address: SocketAddr,
    place: OwnedSemaphorePermit,
) -> io::Result<Connection> {
    let stream = tls.acceptor().accept(stream).await?;
    Ok(Connection::tls(stream, address, place))
}

async fn place(places: &Arc<Semaphore>, what: &str) -> OwnedSemaphorePermit {
    if places.available_permits() == 0 {
        tracing::warn!(what, "as many as there may be; others wait");
    }
    let place = places.clone().acquire_owned().await;
    place.expect("nobody closes the semaphore")
}
