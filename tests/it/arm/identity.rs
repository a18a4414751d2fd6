//! A real identity: a token is had for a client secret over TLS, and believed.

use std::sync::Arc;
use std::time::Duration;

use rcgen::generate_simple_self_signed;
use site_recovery::azure::client::{ArmClient, Options};
use site_recovery::azure::cloud::Environment;
use site_recovery::azure::seen::Seen;
use site_recovery::azure::{Arm as _, Kind, Result};
use site_recovery::lab::arm::{self, Arm, Certificate};
use site_recovery::secret::Secret;
use site_recovery::transport::identity::{Cloud, Identity};

use crate::arm::world::{SUBSCRIPTION, TOKEN, furnish, group};
use crate::blob::emulator::http;

#[tokio::test]
async fn a_client_secret_is_a_token_over_tls_and_a_wrong_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let issued = generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let http = http(&[&issued.cert.pem()]);
    let mut options = arm::Options::quick(folder.path().to_owned());
    options.tls = Some(Certificate {
        certificate: issued.cert.pem(),
        key: Secret::new(issued.signing_key.serialize_pem()),
    });
    options.token = Some(Secret::new(TOKEN));
    options.client_secret = Some(Secret::new("right"));
    let arm = Arm::start(options).await.unwrap();
    furnish(&arm);

    let ask = async |secret: &str| -> Result<Option<Seen>> {
        let cloud = Cloud::Custom {
            authority: arm.url(),
        };
        let identity = Identity::ClientSecret {
            tenant_id: SUBSCRIPTION.to_owned(),
            client_id: SUBSCRIPTION.to_owned(),
            secret: Secret::new(secret),
        };
        let credential = identity.credential(&cloud, &http).unwrap();
        let environment = Environment::custom(&arm.url(), None).unwrap();
        let impatient = Options {
            patience: Duration::ZERO,
            ..Options::default()
        };
        let client = ArmClient::new(&http, environment, Arc::clone(&credential), impatient);
        client.group(&group()).await
    };
    assert!(ask("right").await.unwrap().is_some());
    let error = ask("wrong").await.unwrap_err();
    assert_eq!(error.kind, Kind::Unauthorized);
    let said = site_recovery::report::chain(&error);
    assert!(
        said.contains("AADSTS7000215") && !said.contains("wrong"),
        "{said}"
    );
}
