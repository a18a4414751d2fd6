//! Where the gateway is, and through which proxy it is reached.

use std::str::FromStr;

use http::{HeaderValue, Uri};
use hyper_util::client::proxy::matcher::Matcher;
use rustls::pki_types::ServerName;

use crate::secret::Secret;

/// `host:port`, with brackets around an IPv6 address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    host: String,
    port: u16,
}

/// A part of the configuration that cannot be used. It never repeats what might hold a password.
#[derive(Debug, thiserror::Error)]
pub enum Invalid {
    #[error("`{0}` is not `host:port`")]
    Address(String),
    #[error("`{0}` is neither a DNS name nor an IP address")]
    ServerName(String),
    #[error("the proxy is neither `none`, `system` nor `http://[user:password@]host:port`")]
    Proxy,
    #[error("the proxy {host} has the scheme `{scheme}`; only `http` proxies are supported")]
    ProxyScheme { scheme: String, host: String },
}

impl Address {
    /// Without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The name that the gateway's certificate must have, where none is configured.
    ///
    /// # Errors
    /// If the host is no name that a certificate could have.
    pub fn server_name(&self) -> Result<ServerName<'static>, Invalid> {
        server_name(&self.host)
    }

    /// As it stands in a request or URL.
    pub(crate) fn authority(&self) -> String {
        let Address { host, port } = self;
        if host.contains(':') {
            format!("[{host}]:{port}")
        } else {
            format!("{host}:{port}")
        }
    }
}

impl FromStr for Address {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let invalid = || Invalid::Address(text.chars().take(300).collect());
        let (host, port) = text.rsplit_once(':').ok_or_else(invalid)?;
        let port = port.parse().map_err(|_| invalid())?;
        let bracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let host = bracketed.unwrap_or(host);
        let valid = match bracketed {
            Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
            None => server_name(host).is_ok() && !host.contains(':'),
        };
        if !valid || port == 0 {
            return Err(invalid());
        }
        Ok(Address {
            host: host.to_owned(),
            port,
        })
    }
}

/// # Errors
/// If `text` is no name that a certificate could have.
pub fn server_name(text: &str) -> Result<ServerName<'static>, Invalid> {
    ServerName::try_from(text.to_owned()).map_err(|_| Invalid::ServerName(text.to_owned()))
}

/// Which connections go through a proxy.
pub struct Proxy(Option<Matcher>);

/// The proxy of one connection.
pub(crate) struct Hop {
    pub(crate) address: Address,
    /// `Basic …`, marked as sensitive.
    pub(crate) authorization: Option<HeaderValue>,
}

impl Proxy {
    pub const fn none() -> Self {
        Proxy(None)
    }

    /// What `HTTPS_PROXY` (or `ALL_PROXY`) and `NO_PROXY` say; on Windows, where they are not set, the system's settings.
    pub fn system() -> Self {
        Proxy(Some(Matcher::from_system()))
    }

    /// `none`, `system`, or `http://[user:password@]host:port`. User and password are percent-encoded.
    ///
    /// # Errors
    /// If it is something else.
    pub fn parse(text: &Secret) -> Result<Self, Invalid> {
        match text.expose() {
            "" | "none" => Ok(Proxy::none()),
            "system" => Ok(Proxy::system()),
            url => {
                let proxy = Proxy(Some(Matcher::builder().all(url).build()));
                // It must be good for some address, or nothing would ever go through it.
                let anywhere = Address {
                    host: "gateway.example".to_owned(),
                    port: 443,
                };
                match proxy.hop(&anywhere)? {
                    Some(_) if url.contains("://") => Ok(proxy),
                    Some(_) | None => Err(Invalid::Proxy),
                }
            }
        }
    }

    /// The proxy through which `gateway` is reached, if any.
    pub(crate) fn hop(&self, gateway: &Address) -> Result<Option<Hop>, Invalid> {
        let destination = format!("https://{}/", gateway.authority());
        let destination: Uri = destination
            .parse()
            .map_err(|_| Invalid::Address(gateway.authority()))?;
        let Some(intercept) = self.0.as_ref().and_then(|m| m.intercept(&destination)) else {
            return Ok(None);
        };
        let uri = intercept.uri();
        let host = uri.host().unwrap_or_default().to_owned();
        if uri.scheme_str() != Some("http") {
            let scheme = uri.scheme_str().unwrap_or_default().to_owned();
            return Err(Invalid::ProxyScheme { scheme, host });
        }
        let address = format!("{host}:{}", uri.port_u16().unwrap_or(80));
        Ok(Some(Hop {
            address: address.parse().map_err(|_| Invalid::Proxy)?,
            authorization: intercept.basic_auth().cloned(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_host_and_port() {
        for (text, host, port) in [
            ("gateway.example:8443", "gateway.example", 8443),
            ("192.0.2.1:443", "192.0.2.1", 443),
            ("[2001:db8::1]:443", "2001:db8::1", 443),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!((address.host(), address.port()), (host, port));
            assert_eq!(address.authority(), text);
            assert!(address.server_name().is_ok());
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            ":443",
            "gateway",
            "gateway:0",
            "gateway:99999",
            "gateway:x",
            "2001:db8::1:443",
            "[gateway]:443",
            "https://gateway:443",
            "gateway.example/path:443",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_proxy_with_credentials_keeps_them_to_itself() {
        let url = Secret::new("http://agent:p%40ss@proxy.example:3128");
        let proxy = Proxy::parse(&url).unwrap();
        let gateway = "gateway.example:443".parse().unwrap();
        let hop = proxy.hop(&gateway).unwrap().unwrap();
        assert_eq!(hop.address.authority(), "proxy.example:3128");
        let authorization = hop.authorization.unwrap();
        assert_eq!(authorization, "Basic YWdlbnQ6cEBzcw==");
        assert!(authorization.is_sensitive());
    }

    #[test]
    fn a_proxy_that_cannot_be_used_is_refused_without_repeating_it() {
        for text in [
            "proxy.example:3128",
            "http://",
            "http://agent:hunter2@",
            "https://agent:hunter2@proxy.example",
            "socks5://agent:hunter2@proxy.example",
            "ftp://agent:hunter2@proxy.example",
            "http://agent:hunter2@[::1",
        ] {
            let Err(refused) = Proxy::parse(&Secret::new(text)) else {
                panic!("{text} was accepted");
            };
            assert!(!refused.to_string().contains("hunter2"), "{refused}");
        }
    }

    #[test]
    fn without_a_proxy_the_way_is_direct() {
        let gateway = "gateway.example:443".parse().unwrap();
        let proxy = Proxy::parse(&Secret::new("none")).unwrap();
        assert!(proxy.hop(&gateway).unwrap().is_none());
    }
}
