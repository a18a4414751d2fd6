//! Verifies an agent's certificate, and notes who was refused and why.
//!
//! What verifies is rustls' own verifier; this one only listens, and asks in addition that the certificate name an agent.

use std::fmt;
use std::sync::{Arc, OnceLock};

use jiff::Timestamp;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use crate::tls::identity::{NoIdentity, PeerIdentity};
use crate::tls::server::Refusal;

/// The verifier of one handshake.
pub(crate) struct Listening {
    inner: Arc<dyn ClientCertVerifier>,
    refusal: Arc<OnceLock<Refusal>>,
}

impl Listening {
    /// A verifier that leaves in `refusal` why it said no.
    pub(crate) fn new(inner: Arc<dyn ClientCertVerifier>, refusal: Arc<OnceLock<Refusal>>) -> Self {
        Listening { inner, refusal }
    }

    /// Keeps the first reason: what follows from it explains nothing.
    fn note(&self, claimed: Option<PeerIdentity>, reason: String) {
        self.refusal.get_or_init(|| Refusal { claimed, reason });
    }

    fn noting<T>(
        &self,
        certificate: &CertificateDer<'_>,
        result: Result<T, Error>,
    ) -> Result<T, Error> {
        result.inspect_err(|error| {
            let claimed = PeerIdentity::of_certificate(certificate).ok();
            self.note(claimed, reason_of(error));
        })
    }
}

impl ClientCertVerifier for Listening {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.noting(
            end_entity,
            self.inner
                .verify_client_cert(end_entity, intermediates, now),
        )?;
        match PeerIdentity::of_certificate(end_entity) {
            Ok(_) => Ok(verified),
            Err(error) => {
                self.note(None, said(&error));
                Err(CertificateError::ApplicationVerificationFailure.into())
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let result = self
            .inner
            .verify_tls12_signature(message, certificate, signature);
        self.noting(certificate, result)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let result = self
            .inner
            .verify_tls13_signature(message, certificate, signature);
        self.noting(certificate, result)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

impl fmt::Debug for Listening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listening").finish_non_exhaustive()
    }
}

fn said(error: &NoIdentity) -> String {
    crate::report::chain(error)
}

/// A failed handshake in the words of whoever has to mend it.
pub(crate) fn reason_of(error: &Error) -> String {
    use CertificateError::{
        BadSignature, Expired, ExpiredContext, InvalidPurpose, InvalidPurposeContext, NotValidYet,
        NotValidYetContext, UnknownIssuer,
    };
    match error {
        Error::InvalidCertificate(certificate) => match certificate {
            ExpiredContext { not_after, .. } => {
                format!("its certificate expired on {}", date(*not_after))
            }
            Expired => "its certificate has expired".to_owned(),
            NotValidYetContext { not_before, .. } => format!(
                "its certificate is not valid before {}; check the clocks",
                date(*not_before)
            ),
            NotValidYet => "its certificate is not valid yet; check the clocks".to_owned(),
            UnknownIssuer => "its certificate was issued by an unknown authority".to_owned(),
            BadSignature => "its certificate bears a wrong signature".to_owned(),
            InvalidPurpose | InvalidPurposeContext { .. } => {
                "its certificate is not for this side of a connection (extended key usage)"
                    .to_owned()
            }
            other => format!("its certificate was refused: {other}"),
        },
        Error::NoCertificatesPresented => "it presented no certificate".to_owned(),
        Error::InvalidMessage(_) => "it does not speak TLS".to_owned(),
        Error::NoApplicationProtocol => "it does not speak HTTP/2".to_owned(),
        Error::AlertReceived(alert) => format!("it refused: {alert:?}"),
        other => format!("TLS failed: {other}"),
    }
}

fn date(time: UnixTime) -> String {
    i64::try_from(time.as_secs())
        .ok()
        .and_then(|seconds| Timestamp::from_second(seconds).ok())
        .map_or_else(|| "an unreadable date".to_owned(), |time| time.to_string())
}
