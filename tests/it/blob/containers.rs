//! Containers of an account, and what the account tells about itself.

use bytes::Bytes;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use site_recovery::blob::parameters::{Include, PutOptions};
use site_recovery::blob::{Account, Kind, walk};

use crate::blob::emulator::{self, unique};

#[tokio::test]
async fn a_container_is_created_once_and_deleted_once() {
    let emulator = emulator::start().await;
    let account = emulator.account();
    let name = unique("once");

    assert!(account.create_container(&name).await.unwrap());
    assert!(!account.create_container(&name).await.unwrap());
    let found = account.container_properties(&name).await.unwrap().unwrap();
    assert_eq!(found.name, name);
    assert!(account.delete_container(&name).await.unwrap());
    assert!(!account.delete_container(&name).await.unwrap());
    assert_eq!(account.container_properties(&name).await.unwrap(), None);
}

#[tokio::test]
async fn containers_are_listed_by_prefix_up_to_a_bound() {
    let emulator = emulator::start().await;
    let account = emulator.account();
    let prefix = unique("list");
    let names: Vec<String> = (0..3).map(|n| format!("{prefix}-{n}")).collect();
    for name in &names {
        account.create_container(name).await.unwrap();
    }

    let all = walk::containers(&account, &prefix, 3).await.unwrap();
    let listed: Vec<String> = all.into_iter().map(|container| container.name).collect();
    assert_eq!(listed, names);
    let error = walk::containers(&account, &prefix, 2).await.unwrap_err();
    assert_eq!(error.kind, Kind::TooLarge { limit: 2 });
}

#[tokio::test]
async fn a_listing_of_many_blobs_is_read_to_its_end() {
    const BLOBS: usize = 1050;
    let emulator = emulator::start().await;
    let container = emulator.container().await;
    stream::iter(0..BLOBS)
        .map(Ok)
        .try_for_each_concurrent(16, |n| {
            let container = container.clone();
            async move {
                let name = format!("many/{n:04}");
                let options = PutOptions::create();
                container.put(&name, Bytes::new(), &options).await.map(drop)
            }
        })
        .await
        .unwrap();

    let first = container.list("many/", Include::default(), None).await;
    assert!(first.unwrap().next.is_some());
    let all = walk::blobs(container.as_ref(), "many/", Include::default(), 2000).await;
    let names: Vec<String> = all.unwrap().items.into_iter().map(|b| b.name).collect();
    let expected: Vec<String> = (0..BLOBS).map(|n| format!("many/{n:04}")).collect();
    assert_eq!(names, expected);
    let error = walk::blobs(container.as_ref(), "", Include::default(), 1049).await;
    assert_eq!(error.unwrap_err().kind, Kind::TooLarge { limit: 1049 });
}

#[tokio::test]
async fn what_is_missing_is_not_found_and_never_empty() {
    let emulator = emulator::start().await;
    let absent = emulator.account().container(&unique("absent"));

    let listed = absent.list("", Include::default(), None).await;
    assert!(listed.unwrap_err().is_not_found());
    let put = absent.put("a", Bytes::new(), &PutOptions::default()).await;
    let error = put.unwrap_err();
    assert!(error.is_not_found());
    assert!(error.to_string().contains(absent.name()), "{error}");
}

#[tokio::test]
async fn the_account_tells_its_kind_and_settings() {
    let emulator = emulator::start().await;
    let account = emulator.account();

    let information = account.information().await.unwrap();
    assert_eq!(information.kind, "StorageV2");
    assert!(!information.sku.is_empty());
    assert_ne!(information.hierarchical_namespace, Some(true));
    account.service_properties().await.unwrap();
}

#[tokio::test]
async fn a_wrong_key_is_the_accounts_fault_and_not_a_signatures() {
    use site_recovery::blob::client::account::AccountClient;
    use site_recovery::blob::credential::AccountKey;
    use site_recovery::report::Code;
    use site_recovery::secret::Secret;

    let emulator = emulator::start().await;
    let wrong = AccountKey::new(&Secret::new("d3Jvbmc=")).unwrap();
    let account = AccountClient::with_key(
        &emulator::http(&[]),
        emulator.endpoint(),
        wrong,
        emulator::impatient(),
    );

    let error = account.container_properties("abc").await.unwrap_err();
    assert_eq!(error.code(), Code::StorageUnauthorized);
}
