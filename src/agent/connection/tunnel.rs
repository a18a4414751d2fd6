//! Asks a proxy for a way through (HTTP/1.1 CONNECT, RFC 9110 §9.3.6).
//!
//! The proxy's answer is read byte for byte up to its empty line: what follows belongs to TLS.

use http::HeaderValue;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::agent::connection::address::Address;

/// The longest answer; proxies add a handful of headers.
const HEAD_MAX: usize = 16 << 10;
/// How much of a refusal is repeated.
const SHOWN: usize = 100;

/// Why a proxy gave no way through.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the conversation with the proxy broke off")]
    Io(#[from] std::io::Error),
    #[error("the proxy answered more than {HEAD_MAX} bytes of headers")]
    TooLong,
    #[error("the proxy does not answer as a proxy: `{0}`")]
    NotHttp(String),
    #[error("the proxy wants other credentials: {0}")]
    Credentials(String),
    #[error("the proxy refused: {0}")]
    Refused(String),
}

/// Turns a connection to a proxy into one to `destination`. The caller sets the deadline.
///
/// # Errors
/// If the proxy does not agree.
pub(crate) async fn open<IO>(
    io: &mut IO,
    destination: &Address,
    authorization: Option<&HeaderValue>,
) -> Result<(), Error>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let authority = destination.authority();
    let mut request = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n").into_bytes();
    if let Some(authorization) = authorization {
        request.extend_from_slice(b"Proxy-Authorization: ");
        request.extend_from_slice(authorization.as_bytes());
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    io.write_all(&request).await?;
    io.flush().await?;
    judge(&head(io).await?)
}

async fn head<IO: AsyncRead + Unpin>(io: &mut IO) -> Result<Vec<u8>, Error> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= HEAD_MAX {
            return Err(Error::TooLong);
        }
        head.push(io.read_u8().await?);
    }
    Ok(head)
}

fn judge(head: &[u8]) -> Result<(), Error> {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line: String = String::from_utf8_lossy(line).chars().take(SHOWN).collect();
    let mut words = line.splitn(3, ' ');
    let version = words.next().unwrap_or_default();
    let status = words.next().unwrap_or_default();
    let is_status = status.len() == 3 && status.bytes().all(|byte| byte.is_ascii_digit());
    if !version.starts_with("HTTP/1.") || !is_status {
        return Err(Error::NotHttp(line));
    }
    match status {
        "407" => Err(Error::Credentials(line)),
        success if success.starts_with('2') => Ok(()),
        _ => Err(Error::Refused(line)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn answered(answer: &[u8]) -> Result<Vec<u8>, Error> {
        let (mut near, mut far) = tokio::io::duplex(1 << 20);
        far.write_all(answer).await.unwrap();
        far.shutdown().await.unwrap();
        let address = "[2001:db8::1]:443".parse().unwrap();
        let authorization = HeaderValue::from_static("Basic eDp5");
        open(&mut near, &address, Some(&authorization)).await?;
        let mut rest = Vec::new();
        near.read_to_end(&mut rest).await?;
        Ok(rest)
    }

    #[tokio::test]
    async fn what_follows_the_proxys_answer_is_left_for_tls() {
        let answer = b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\nTLS";
        assert_eq!(answered(answer).await.unwrap(), b"TLS");
    }

    #[tokio::test]
    async fn the_request_names_the_gateway_and_the_credentials() {
        let (mut near, mut far) = tokio::io::duplex(4096);
        far.write_all(b"HTTP/1.0 200 OK\r\n\r\n").await.unwrap();
        let address = "gateway.example:443".parse().unwrap();
        let authorization = HeaderValue::from_static("Basic eDp5");
        open(&mut near, &address, Some(&authorization))
            .await
            .unwrap();
        drop(near);
        let mut request = String::new();
        far.read_to_string(&mut request).await.unwrap();
        assert_eq!(
            request,
            "CONNECT gateway.example:443 HTTP/1.1\r\nHost: gateway.example:443\r\n\
             Proxy-Authorization: Basic eDp5\r\n\r\n"
        );
    }

    #[tokio::test]
    async fn a_refusal_is_repeated_in_the_proxys_words() {
        let refused = answered(b"HTTP/1.1 403 Forbidden by policy\r\n\r\n").await;
        let refused = refused.unwrap_err().to_string();
        assert_eq!(
            refused,
            "the proxy refused: HTTP/1.1 403 Forbidden by policy"
        );
        let refused = answered(b"HTTP/1.1 407 Who are you?\r\n\r\n").await;
        assert!(matches!(refused, Err(Error::Credentials(_))));
    }

    #[tokio::test]
    async fn an_answer_that_is_none_is_an_error_and_not_a_hang() {
        for garbage in [
            b"SSH-2.0-OpenSSH_9.2\r\n\r\n".as_slice(),
            b"\r\n\r\n",
            b"HTTP/1.1 2xx\r\n\r\n",
            b"HTTP/1.1 2000 OK\r\n\r\n",
        ] {
            assert!(matches!(answered(garbage).await, Err(Error::NotHttp(_))));
        }
        assert!(matches!(answered(b"HTTP/1.1 20").await, Err(Error::Io(_))));
        let endless = vec![b'x'; 2 * HEAD_MAX];
        assert!(matches!(answered(&endless).await, Err(Error::TooLong)));
    }
}
