//! The attempts of one call: each signed anew, sent once, and told apart by what it leaves known.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::header::AUTHORIZATION;
use http::{HeaderValue, Method};

use crate::blob::client::call::Call;
use crate::blob::client::{CRC64, Client, Prepared};
use crate::blob::credential::{Credential, shared_key};
use crate::blob::date;
use crate::blob::error::{Error, Kind, Operation, classify};
use crate::blob::names::Invalid;
use crate::blob::pacer::Pace;
use crate::blob::xml::Malformed;
use crate::report;
use crate::secret::SasToken;
use crate::transport::http::{Answer, Broken, exchange};
use crate::transport::token::Why;
use crate::units::to_u64;

/// The service puts it on every answer to a change, and a proxy that answers in its place on none.
const REQUEST_ID: &str = "x-ms-request-id";

/// A call on its way. Its attempts follow one another; the flags are atomic only so that it may move between threads.
pub(crate) struct Sending<'a> {
    client: &'a Client,
    call: &'a Call,
    object: &'a str,
    prepared: &'a Prepared,
    pace: Option<&'a Pace>,
    /// There was an attempt.
    begun: AtomicBool,
    /// An attempt may have been carried out although it failed.
    uncertain: AtomicBool,
}

impl<'a> Sending<'a> {
    pub(crate) const fn new(
        client: &'a Client,
        call: &'a Call,
        object: &'a str,
        prepared: &'a Prepared,
        pace: Option<&'a Pace>,
    ) -> Self {
        Sending {
            client,
            call,
            object,
            prepared,
            pace,
            begun: AtomicBool::new(false),
            uncertain: AtomicBool::new(false),
        }
    }

    /// Waits until the blob's pace admits the call.
    pub(crate) async fn turn(&self) -> Result<(), Error> {
        match self.pace {
            None => Ok(()),
            Some(pace) => {
                let admitted = pace
                    .admit(self.call.body.len(), &self.client.options.stop)
                    .await;
                admitted
                    .then_some(())
                    .ok_or_else(|| self.error(Kind::Stopped))
            }
        }
    }

    /// The next attempt. The turn of the first one was waited for before.
    pub(crate) async fn next(&self) -> Result<Answer, Error> {
        let turn = match self.begun.swap(true, Ordering::Relaxed) {
            true => self.turn().await,
            false => Ok(()),
        };
        let result = match turn {
            Ok(()) => self.attempt().await,
            Err(stopped) => Err(stopped),
        };
        result.map_err(|mut error| {
            error.repeated = self.uncertain.load(Ordering::Relaxed);
            self.uncertain
                .store(error.outcome_unknown(), Ordering::Relaxed);
            tracing::debug!(error = report::chain(&error), "request failed");
            error
        })
    }

    async fn attempt(&self) -> Result<Answer, Error> {
        let (request, used) = self.sign().await?;
        let http = if self.client.endpoint.is_loopback() {
            self.client.http.direct()
        } else {
            self.client.http.routed()
        };
        let sent = to_u64(self.call.body.len());
        match exchange(http, request, sent, self.call.limit).await {
            Ok(answer) => self.judge(answer, used.as_ref()),
            Err(Broken::NotConnected(error)) => Err(self.error(Kind::Unreachable).because(error)),
            Err(Broken::Lost(error)) => Err(self.error(Kind::Interrupted).because(error)),
            Err(Broken::Stalled) => Err(self.error(Kind::Interrupted)),
            // Only a blob is somebody's content; every other answer has a form, and a length, that we know.
            Err(Broken::TooLarge { limit }) if self.call.operation == Operation::GetBlob => {
                Err(self.error(Kind::TooLarge { limit }))
            }
            Err(Broken::TooLarge { .. }) => Err(self.error(Kind::Malformed)),
        }
    }

    /// Whether the answer says that it was done.
    fn judge(&self, answer: Answer, used: Option<&Arc<SasToken>>) -> Result<Answer, Error> {
        if self.call.success.contains(&answer.status.as_u16()) {
            if is_change(&self.call.method) && !answer.headers.contains_key(REQUEST_ID) {
                let why = Malformed::new(format!("no {REQUEST_ID}"));
                return Err(self.error(Kind::Malformed).because(why));
            }
            return match &self.prepared.checksum {
                Some(sum) if differs(&answer, sum) => Err(self.error(Kind::Corrupted)),
                Some(_) | None => Ok(answer),
            };
        }
        let refusal = classify::refusal(answer.status, &answer.headers, &answer.body);
        if classify::is_throttling(&refusal) {
            self.pace.into_iter().for_each(Pace::throttled);
        }
        let right = self.client.credential.right();
        let kind = classify::kind(&refusal, right, self.call.creating);
        let mut error = self.error(kind).refused(refusal);
        error.renewed = kind == Kind::SignatureRefused && self.was_renewed(used);
        Err(error)
    }

    /// The request as it is sent now, and the signature that it was sent with, if it was one.
    async fn sign(&self) -> Result<(reqwest::Request, Option<Arc<SasToken>>), Error> {
        let now = self.client.options.clock.now();
        let mut headers = self.prepared.headers.clone();
        let mut query = self.call.query_string();
        let mut used = None;
        let date = HeaderValue::try_from(date::http(now)).expect("a date is visible ASCII");
        headers.insert("x-ms-date", date);
        let authorization = match &self.client.credential {
            Credential::Key(key) => {
                let signed = shared_key::Signed {
                    method: &self.call.method,
                    account: self.client.endpoint.account(),
                    path: &self.prepared.path,
                    query: &self.call.query,
                    headers: &headers,
                };
                Some(shared_key::authorization(key, &signed))
            }
            Credential::Token(tokens) => {
                let token = tokens.get(now).await.map_err(|none| {
                    let error = self.error(match none.why {
                        Why::Refused => Kind::Unauthorized,
                        Why::Unavailable => Kind::TokenUnavailable,
                    });
                    match none.source {
                        Some(source) => error.because(source),
                        None => error,
                    }
                })?;
                Some(format!("Bearer {}", token.token.secret()))
            }
            Credential::Signature(held) => {
                let sas = held.current();
                if !query.is_empty() {
                    query.push('&');
                }
                query.push_str(sas.expose());
                used = Some(sas);
                None
            }
        };
        if let Some(value) = authorization {
            // Only a token service could invent a token that no header can hold.
            let mut value =
                HeaderValue::try_from(value).map_err(|_| self.error(Kind::Unauthorized))?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let mut request = reqwest::Request::new(self.call.method.clone(), self.url(&query)?);
        *request.headers_mut() = headers;
        if !self.call.body.is_empty() {
            *request.body_mut() = Some(self.call.body.clone().into());
        }
        Ok((request, used))
    }

    /// The parser's own error is dropped, because it might repeat a signature.
    fn url(&self, query: &str) -> Result<reqwest::Url, Error> {
        let mut url = self.prepared.url.clone();
        if !query.is_empty() {
            url.push('?');
            url.push_str(query);
        }
        reqwest::Url::parse(&url).map_err(|_| {
            let why = Invalid::new(self.object, "it makes no URL");
            Error::invalid(self.call.operation, self.object, why)
        })
    }

    /// Whether the signature that a request was sent with is not the present one any more.
    fn was_renewed(&self, used: Option<&Arc<SasToken>>) -> bool {
        match (&self.client.credential, used) {
            (Credential::Signature(held), Some(used)) => !Arc::ptr_eq(&held.current(), used),
            (Credential::Key(_) | Credential::Token(_) | Credential::Signature(_), _) => false,
        }
    }

    fn error(&self, kind: Kind) -> Error {
        Error::new(self.call.operation, self.object, kind)
    }
}

/// What is asked for proves itself by its content; of a change, nothing comes back but that it was done.
fn is_change(method: &Method) -> bool {
    matches!(*method, Method::PUT | Method::DELETE)
}

/// Whether the service has seen other bytes than were sent. Where it does not say, it has compared on its side.
fn differs(answer: &Answer, sum: &str) -> bool {
    answer
        .headers
        .get(CRC64)
        .is_some_and(|seen| seen.as_bytes() != sum.as_bytes())
}
