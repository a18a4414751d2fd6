//! Entra identities: tokens over https, and signatures by keys that were got for a token.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use azure_core::credentials::{AccessToken, TokenCredential, TokenRequestOptions};
use azure_core::time::OffsetDateTime;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use jiff::Timestamp;
use rcgen::generate_simple_self_signed;
use site_recovery::blob::client::account::AccountClient;
use site_recovery::blob::client::container::ContainerClient;
use site_recovery::blob::credential::RenewableSas;
use site_recovery::blob::endpoint::Endpoint;
use site_recovery::blob::names::BlobRef;
use site_recovery::blob::parameters::{Include, Permissions, PutOptions};
use site_recovery::blob::{Account, Container, Kind};
use site_recovery::lab::azurite::{self, Azurite, Certificate};
use site_recovery::report::{self, Code};
use site_recovery::secret::{SasToken, Secret};
use site_recovery::transport::http::Http;
use site_recovery::transport::identity::{Cloud, Identity};
use tempfile::TempDir;

use crate::blob::emulator::{self, command, impatient, unique};

const HOUR: Duration = Duration::from_secs(3600);
const ISSUER: &str = "https://sts.windows.net/";
const TENANT: &str = "ab1f708d-50f6-404c-a006-d71b2ac7a606";

/// Gives tokens that the emulator believes: it looks at the claims and not at the signature.
#[derive(Debug)]
struct Claims {
    issuer: &'static str,
}

#[async_trait]
impl TokenCredential for Claims {
    async fn get_token(
        &self,
        scopes: &[&str],
        _: Option<TokenRequestOptions<'_>>,
    ) -> azure_core::Result<AccessToken> {
        assert_eq!(scopes, ["https://storage.azure.com/.default"]);
        let now = Timestamp::now().as_second();
        let claims = format!(
            r#"{{"aud":"https://storage.azure.com","iss":"{}{TENANT}/","iat":{now},"nbf":{},"exp":{},"oid":"11059fcc-5514-4800-b5f8-49808b9cfab6","tid":"{TENANT}","ver":"1.0"}}"#,
            self.issuer,
            now - 300,
            now + 3600,
        );
        let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let token = format!(
            "{}.{}.x",
            encode(r#"{"alg":"RS256","typ":"JWT"}"#),
            encode(&claims)
        );
        let expiry = OffsetDateTime::from_unix_timestamp(now + 3600).unwrap();
        Ok(AccessToken::new(token, expiry))
    }
}

/// An emulator that takes tokens, and a transport that trusts it.
struct Secured {
    azurite: Azurite,
    http: Http,
    _folder: TempDir,
}

impl Secured {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let issued = generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        let certificate = Certificate {
            certificate: folder.path().join("certificate.pem"),
            key: folder.path().join("key.pem"),
        };
        std::fs::write(&certificate.certificate, issued.cert.pem()).unwrap();
        std::fs::write(&certificate.key, issued.signing_key.serialize_pem()).unwrap();
        let options = azurite::Options {
            in_memory: true,
            oauth: Some(certificate),
            ..azurite::Options::default()
        };
        let azurite = Azurite::start(&command().await, folder.path(), options).await;
        Secured {
            azurite: azurite.unwrap(),
            http: emulator::http(&[&issued.cert.pem()]),
            _folder: folder,
        }
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint::parse(&self.azurite.endpoint()).unwrap()
    }

    fn account(&self, http: &Http, issuer: &'static str) -> AccountClient {
        let claims = Arc::new(Claims { issuer });
        AccountClient::with_identity(http, self.endpoint(), claims, impatient()).unwrap()
    }

    fn agent(&self, container: &str, sas: SasToken) -> ContainerClient {
        let sas = RenewableSas::new(sas);
        ContainerClient::with_sas(&self.http, self.endpoint(), container, sas, impatient())
    }
}

#[tokio::test]
async fn an_identity_reads_writes_and_signs_for_agents() {
    let service = Secured::start().await;
    let account = service.account(&service.http, ISSUER);
    let name = unique("oauth");
    assert!(account.create_container(&name).await.unwrap());
    let body = Bytes::from_static(b"fence");
    let owner = account.container(&name);
    owner
        .put("a", body.clone(), &PutOptions::create())
        .await
        .unwrap();

    let now = Timestamp::now();
    let sign = |start, end| account.sas(&name, Permissions::REPLICA, start, end);
    let agent = service.agent(&name, sign(now - HOUR, now + 24 * HOUR).await.unwrap());
    let read = agent.get(&BlobRef::head("a"), None, 10).await.unwrap();
    assert_eq!(read.bytes, body);
    let write = agent
        .put("b", body, &PutOptions::create())
        .await
        .unwrap_err();
    assert_eq!(write.code(), Code::WaitingForCredentials);
    let expired = service.agent(&name, sign(now - 2 * HOUR, now - HOUR).await.unwrap());
    let late = expired
        .list("", Include::default(), None)
        .await
        .unwrap_err();
    assert_eq!(late.code(), Code::WaitingForCredentials);
    let long = sign(now, now + 8 * 24 * HOUR).await.unwrap_err();
    assert_eq!(long.kind, Kind::Refused);
}

#[tokio::test]
async fn a_refused_token_and_an_untrusted_service_are_two_things() {
    let service = Secured::start().await;

    let impostor = service.account(&service.http, "https://example.com/");
    let refused = impostor.create_container("abc").await.unwrap_err();
    assert_eq!(refused.code(), Code::StorageUnauthorized);
    let distrustful = service.account(&emulator::http(&[]), ISSUER);
    let untrusted = distrustful.create_container("abc").await.unwrap_err();
    assert_eq!(untrusted.kind, Kind::Unreachable);
    let said = report::chain(&untrusted).to_lowercase();
    assert!(said.contains("certificate"), "{said}");
}

#[tokio::test]
async fn a_token_is_never_sent_without_tls() {
    let emulator = emulator::start().await;
    let claims = Arc::new(Claims { issuer: ISSUER });
    let http = emulator::http(&[]);
    let refused = AccountClient::with_identity(&http, emulator.endpoint(), claims, impatient());
    assert_eq!(refused.err().unwrap().code(), Code::Configuration);
}

#[tokio::test]
async fn a_token_service_that_is_away_is_waited_for() {
    let http = emulator::http(&[]);
    let cloud = Cloud::Custom {
        authority: "https://127.0.0.1:1".to_owned(),
    };
    let identity = Identity::ClientSecret {
        tenant_id: TENANT.to_owned(),
        client_id: TENANT.to_owned(),
        secret: Secret::new("hunter2"),
    };
    let credential = identity.credential(&cloud, &http).unwrap();
    let endpoint = Endpoint::parse("https://acct1.blob.core.windows.net").unwrap();
    let account = AccountClient::with_identity(&http, endpoint, credential, impatient()).unwrap();

    let error = account.create_container("abc").await.unwrap_err();
    assert_eq!(error.kind, Kind::TokenUnavailable, "{}", error.fault());
    assert_eq!(error.code(), Code::StorageUnreachable);
    assert!(!error.outcome_unknown());
    assert!(!format!("{error:?}").contains("hunter2"));
}

#[tokio::test]
async fn an_identity_that_is_described_wrongly_is_refused_before_it_asks() {
    let http = emulator::http(&[]);
    let wrong = Identity::ClientSecret {
        tenant_id: "no tenant!".to_owned(),
        client_id: TENANT.to_owned(),
        secret: Secret::new("hunter2"),
    };
    let missing = Identity::Workload {
        tenant_id: Some(TENANT.to_owned()),
        client_id: Some(TENANT.to_owned()),
        token_file: Some("/nonexistent/token".into()),
    };
    for identity in [wrong, missing] {
        let error = identity.credential(&Cloud::Public, &http).err().unwrap();
        assert_eq!(error.code(), Code::Configuration);
        assert!(!format!("{error:?}").contains("hunter2"));
    }
}
