//! What tokens are made of, and what is made of a token service that does not give any.

use std::collections::VecDeque;
use std::sync::Mutex;

use async_trait::async_trait;
use azure_core::credentials::{Secret, TokenRequestOptions};
use azure_core::http::headers::Headers;
use azure_core::http::{
    AsyncRawResponse, ClientOptions, HttpClient, Request, RetryOptions, Transport,
};
use azure_core::time::OffsetDateTime;
use azure_identity::{ClientSecretCredential, ClientSecretCredentialOptions};

use super::*;

const SCOPE: &str = "https://storage.azure.com/.default";
const ID: &str = "ab1f708d-50f6-404c-a006-d71b2ac7a606";

/// A token service that always says the same.
#[derive(Debug)]
struct Service {
    status: u16,
    body: &'static str,
}

#[async_trait]
impl HttpClient for Service {
    async fn execute_request(&self, _: &Request) -> azure_core::Result<AsyncRawResponse> {
        let status = self.status.into();
        Ok(AsyncRawResponse::from_bytes(
            status,
            Headers::default(),
            self.body,
        ))
    }
}

/// What the real credential and this module make of such an answer.
async fn asked(status: u16, body: &'static str) -> Result<Arc<AccessToken>, NoToken> {
    let options = ClientSecretCredentialOptions {
        client_options: ClientOptions {
            retry: RetryOptions::none(),
            transport: Some(Transport::new(Arc::new(Service { status, body }))),
            ..ClientOptions::default()
        },
    };
    let secret = Secret::new("hunter2".to_owned());
    let credential = ClientSecretCredential::new(ID, ID.to_owned(), secret, Some(options)).unwrap();
    Tokens::of(credential, SCOPE)
        .get(Timestamp::UNIX_EPOCH)
        .await
}

#[tokio::test]
async fn an_identity_that_is_refused_is_told_from_a_service_that_fails() {
    let refused =
        r#"{"error":"invalid_client","error_description":"AADSTS7000215","error_codes":[7000215]}"#;
    for (status, body, expected) in [
        (401, refused, Why::Refused),
        (400, refused, Why::Refused),
        (429, "{}", Why::Unavailable),
        (500, "{}", Why::Unavailable),
        (503, "{}", Why::Unavailable),
        (502, "<html>Bad Gateway</html>", Why::Unavailable),
        (200, "<html>Welcome</html>", Why::Unavailable),
    ] {
        let none = asked(status, body).await.err().unwrap();
        assert_eq!(none.why, expected, "{status} {body}");
    }
    let token = r#"{"token_type":"Bearer","expires_in":3600,"access_token":"t"}"#;
    assert_eq!(asked(200, token).await.ok().unwrap().token.secret(), "t");
}

/// Gives what it has, one after another.
#[derive(Debug)]
struct Scripted(Mutex<VecDeque<azure_core::Result<AccessToken>>>);

#[async_trait]
impl TokenCredential for Scripted {
    async fn get_token(
        &self,
        _: &[&str],
        _: Option<TokenRequestOptions<'_>>,
    ) -> azure_core::Result<AccessToken> {
        self.0.lock().unwrap().pop_front().unwrap()
    }
}

#[tokio::test]
async fn a_token_is_used_to_its_end_when_no_new_one_can_be_had() {
    let expiry = OffsetDateTime::from_unix_timestamp(1000).unwrap();
    let outage = || {
        Err(azure_core::Error::with_message(
            ErrorKind::Connection,
            "down",
        ))
    };
    let script = [
        Ok(AccessToken::new("t".to_owned(), expiry)),
        outage(),
        outage(),
    ];
    let tokens = Tokens::of(Arc::new(Scripted(Mutex::new(script.into()))), SCOPE);
    let at = |second| Timestamp::from_second(second).unwrap();

    assert!(tokens.get(at(0)).await.is_ok());
    assert_eq!(tokens.get(at(999)).await.ok().unwrap().token.secret(), "t");
    let none = tokens.get(at(1000)).await.err().unwrap();
    assert_eq!(none.why, Why::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn a_token_service_that_hangs_is_given_up() {
    #[derive(Debug)]
    struct Hanging;
    #[async_trait]
    impl TokenCredential for Hanging {
        async fn get_token(
            &self,
            _: &[&str],
            _: Option<TokenRequestOptions<'_>>,
        ) -> azure_core::Result<AccessToken> {
            std::future::pending().await
        }
    }
    let none = Tokens::of(Arc::new(Hanging), SCOPE)
        .get(Timestamp::UNIX_EPOCH)
        .await;
    assert_eq!(none.err().unwrap().why, Why::Unavailable);
}
