//! Asks a controller's probes as a kubelet does: plain HTTP/1.1, a new connection each time.
//!
//! An answer is complete when the controller closes the connection, which it is asked to. Never waits long: a controller
//! that does not answer is not ready.

use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::units::MIB;

/// A kubelet's own default is one second; tests share two cores with compilers.
const PATIENCE: Duration = Duration::from_secs(5);
/// Many times what the metrics of ten thousand VMs take.
const ANSWER_MAX: u64 = 16 * MIB;

/// Whether the controller whose probes are at `port` says that it is ready.
pub async fn is_ready(port: u16) -> bool {
    get(port, "/readyz").await.is_some()
}

/// What the controller answers to `path`, if it answers with success.
pub async fn get(port: u16, path: &str) -> Option<String> {
    let answer = tokio::time::timeout(PATIENCE, answer(port, path)).await;
    let answer = answer.ok()?.ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.starts_with("HTTP/1.1 200 ").then(|| body.to_owned())
}

async fn answer(port: u16, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.take(ANSWER_MAX).read_to_string(&mut answer).await?;
    Ok(answer)
}
