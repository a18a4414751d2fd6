//! Azure's own SDK as the client of the lab's cloud: its pollers judge what stands for Azure.

use std::process::Command;
use std::time::Duration;

use site_recovery::units::{ByteRange, to_u64};

use crate::arm::world::{LOCATION, SUBSCRIPTION, TOKEN, World, account, subnet, upload, vhd};
use crate::blob::emulator::{noise, obtain};

const DRIVER: &str = include_str!("sdk.py");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn azures_own_sdk_imports_a_disk_runs_a_machine_and_deletes_all() {
    let emulator = crate::blob::emulator::start().await;
    let slowly = |options: &mut site_recovery::lab::arm::Options| {
        options.takes = Duration::from_millis(300);
    };
    let world = World::with(slowly, Some(emulator)).await;
    let content = noise(9, 2 << 20);
    let (container, base) = world.container().await;
    let url = upload(container.as_ref(), &base, &vhd(&content)).await;
    let python = obtain(|tools| tools.python_management()).await;

    let mut driver = Command::new(python);
    driver
        .args([
            "-c",
            DRIVER,
            &world.arm().url(),
            SUBSCRIPTION,
            TOKEN,
            LOCATION,
        ])
        .args([&url, &account().to_string(), &subnet().to_string()])
        .env("AZURE_CORE_COLLECT_TELEMETRY", "no");
    let output = tokio::task::spawn_blocking(move || driver.output());
    let output = output.await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}\n{said}");
    assert!(told.ends_with("done\n"), "{told}");

    let left = world.arm().resources();
    let left: Vec<_> = left
        .iter()
        .filter(|id| !id.contains("virtualNetworks"))
        .collect();
    let kept = format!("/subscriptions/{SUBSCRIPTION}/resourceGroups/dr-group");
    let disk = format!("{kept}/providers/Microsoft.Compute/disks/sdk-kept");
    assert_eq!(left, [&kept, &disk]);
    let whole = ByteRange::to(to_u64(content.len()));
    assert!(
        world.arm().read(&disk, whole).unwrap() == content,
        "other bytes"
    );
}
