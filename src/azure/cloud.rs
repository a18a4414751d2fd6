//! Which Azure: where its Resource Manager is, and for which audience its tokens are.
//!
//! Plain http is for loopback addresses alone: what is sent there does not leave the machine. A token goes to the
//! management host and its regional sisters (`westeurope.management.azure.com`), and to nobody else, whatever an answer
//! or a stored operation says.

use reqwest::Url;

use crate::report::Code;
use crate::transport::http::is_loopback;
use crate::transport::identity::Cloud;

/// Azure's headers name URLs of up to 4 KiB.
const URL_MAX: usize = 4096;

/// A management endpoint that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no management endpoint: {rule}")]
pub struct NotAnEndpoint {
    text: String,
    rule: &'static str,
}

impl NotAnEndpoint {
    pub const fn code(&self) -> Code {
        Code::Configuration
    }
}

/// One Azure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Environment {
    base: Url,
    scope: String,
}

impl Environment {
    /// One of Azure's own clouds; nothing for a private one, which [`Environment::custom`] describes.
    pub fn of(cloud: &Cloud) -> Option<Self> {
        let host = match cloud {
            Cloud::Public => "management.azure.com",
            Cloud::UsGovernment => "management.usgovcloudapi.net",
            Cloud::China => "management.chinacloudapi.cn",
            Cloud::Custom { .. } => return None,
        };
        let base = format!("https://{host}");
        Environment::custom(&base, None).ok()
    }

    /// A private cloud, a private endpoint, or the lab. `audience` is what its tokens are for; usually its own URL.
    ///
    /// # Errors
    /// If it is no URL of a host, or would send plain text over a network.
    pub fn custom(endpoint: &str, audience: Option<&str>) -> Result<Self, NotAnEndpoint> {
        let wrong = |rule| NotAnEndpoint {
            text: endpoint.chars().take(120).collect(),
            rule,
        };
        let base = Url::parse(endpoint).map_err(|_| wrong("it is no URL"))?;
        let host = base.host_str().ok_or(wrong("it has no host"))?;
        match base.scheme() {
            "https" => {}
            "http" if is_loopback(host) => {}
            "http" => {
                return Err(wrong(
                    "plain http is for loopback addresses alone; use https",
                ));
            }
            _ => return Err(wrong("it is neither https nor http")),
        }
        if base.path() != "/" || base.query().is_some() || !base.username().is_empty() {
            return Err(wrong("it is more than a scheme, a host and a port"));
        }
        let own = base.as_str().trim_end_matches('/');
        let audience = audience.unwrap_or(own).trim_end_matches('/');
        Ok(Environment {
            scope: format!("{audience}/.default"),
            base,
        })
    }

    /// What tokens are asked for.
    pub fn scope(&self) -> &str {
        &self.scope
    }

    pub fn is_loopback(&self) -> bool {
        self.base.host_str().is_some_and(is_loopback)
    }

    /// A URL of the endpoint; `path` begins with a slash and is encoded, `query` is not.
    pub(crate) fn url(&self, path: &str, query: &[(&str, String)]) -> Url {
        let mut url = self.base.clone();
        url.set_path(path);
        url.query_pairs_mut().extend_pairs(query);
        // A space is `+` in forms alone; a plus sign is encoded already.
        let query = url.query().unwrap_or_default().replace('+', "%20");
        url.set_query(Some(&query));
        url
    }

    /// A URL that an answer or a stored operation names, if a token may be sent there.
    pub(crate) fn admit(&self, text: &str) -> Option<Url> {
        let url = Url::parse(text).ok().filter(|_| text.len() <= URL_MAX)?;
        let (host, own) = (url.host_str()?, self.base.host_str()?);
        let sister = host
            .strip_suffix(own)
            .is_some_and(|region| region.ends_with('.'));
        let same_way = url.scheme() == self.base.scheme()
            && url.port_or_known_default() == self.base.port_or_known_default();
        let safe = same_way && url.username().is_empty() && url.password().is_none();
        (safe && (host == own || sister)).then_some(url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cloud_has_its_own_host_and_audience() {
        for (cloud, scope) in [
            (Cloud::Public, "https://management.azure.com/.default"),
            (
                Cloud::UsGovernment,
                "https://management.usgovcloudapi.net/.default",
            ),
            (Cloud::China, "https://management.chinacloudapi.cn/.default"),
        ] {
            assert_eq!(Environment::of(&cloud).unwrap().scope(), scope);
        }
        let private = Environment::custom(
            "https://arm.local.example:30005",
            Some("https://management.example.onmicrosoft.com/abc"),
        );
        let scope = "https://management.example.onmicrosoft.com/abc/.default";
        assert_eq!(private.unwrap().scope(), scope);
    }

    #[test]
    fn a_token_goes_to_the_cloud_and_nowhere_else() {
        let azure = Environment::of(&Cloud::Public).unwrap();
        for good in [
            "https://management.azure.com/subscriptions/s/x?api-version=1&t=2",
            "https://westeurope.management.azure.com/subscriptions/s/x",
            "https://management.azure.com:443/x",
        ] {
            assert!(azure.admit(good).is_some(), "{good}");
        }
        for bad in [
            "http://management.azure.com/x",
            "https://management.azure.com.example.com/x",
            "https://evilmanagement.azure.com/x",
            "https://management.azure.com@example.com/x",
            "https://user@management.azure.com/x",
            "https://management.azure.com:8443/x",
            "/subscriptions/s",
        ] {
            assert!(azure.admit(bad).is_none(), "{bad}");
        }
        let long = format!("https://management.azure.com/{}", "x".repeat(URL_MAX));
        assert!(azure.admit(&long).is_none());
    }

    #[test]
    fn a_filter_is_encoded_as_a_url_asks_for_and_not_as_a_form() {
        let azure = Environment::of(&Cloud::Public).unwrap();
        let url = azure.url("/x", &[("$filter", "tagValue eq 'a+b&c'".to_owned())]);
        let expected = "https://management.azure.com/x?%24filter=tagValue%20eq%20%27a%2Bb%26c%27";
        assert_eq!(url.as_str(), expected);
    }

    #[test]
    fn plain_text_stays_on_the_machine() {
        assert!(Environment::custom("http://127.0.0.1:8099", None).is_ok());
        for text in [
            "http://management.azure.com",
            "ftp://127.0.0.1",
            "https://h/p",
        ] {
            assert!(Environment::custom(text, None).is_err(), "{text}");
        }
    }
}
