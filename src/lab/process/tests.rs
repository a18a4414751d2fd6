//! What a process under guard promises: nothing of it is left, however it or we end.

use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, test_kill_process};

use crate::lab::process::log::Log;
use crate::lab::process::{Error, Process};

/// Longer than any of these tests can take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn shell(script: &str, folder: &tempfile::TempDir) -> Process {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    Process::start("the script", &mut command, &folder.path().join("log")).unwrap()
}

async fn wait_until_it_says(process: &mut Process, text: &'static str) {
    let log = process.log().clone();
    process
        .wait_ready(PATIENCE, || {
            let said = log.text().contains(text);
            async move { said }
        })
        .await
        .unwrap();
}

/// Waits for the end of a process that is not our child.
async fn wait_gone(id: i32) {
    let pid = Pid::from_raw(id).unwrap();
    while test_kill_process(pid).is_ok() && !is_zombie(id) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn is_zombie(id: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{id}/stat")).is_ok_and(|stat| stat.contains(") Z "))
}

fn grandchild(log: &Log) -> i32 {
    let text = log.text();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("grandchild "));
    line.unwrap().parse().unwrap()
}

const WITH_A_GRANDCHILD: &str = "sleep 1000 & echo grandchild $!; echo ready; wait";

#[tokio::test]
async fn our_death_ends_the_child_and_what_it_started() {
    let folder = tempfile::tempdir().unwrap();
    let mut process = shell(WITH_A_GRANDCHILD, &folder);
    wait_until_it_says(&mut process, "ready").await;
    let grandchild = grandchild(process.log());

    // The kernel closes this pipe when we die, whatever we die of.
    drop(process.guard.stdin.take());

    let status = process.wait_ended(PATIENCE).await.unwrap();
    assert!(!status.success());
    wait_gone(grandchild).await;
}

#[tokio::test]
async fn dropping_a_process_ends_it_and_what_it_started() {
    let folder = tempfile::tempdir().unwrap();
    let mut process = shell(WITH_A_GRANDCHILD, &folder);
    wait_until_it_says(&mut process, "ready").await;
    let (child, grandchild) = (process.id(), grandchild(process.log()));

    drop(process);

    // Reaped, not only dead: its number is free again.
    let child = Pid::from_raw(child.try_into().unwrap()).unwrap();
    assert!(test_kill_process(child).is_err());
    wait_gone(grandchild).await;
}

#[tokio::test]
async fn a_child_that_ends_before_it_is_ready_is_an_error_with_its_last_words() {
    let folder = tempfile::tempdir().unwrap();
    let mut process = shell("echo port taken; exit 3", &folder);

    let error = process
        .wait_ready(PATIENCE, || std::future::ready(false))
        .await
        .unwrap_err();

    assert!(matches!(error, Error::Ended { .. }));
    let said = error.to_string();
    assert!(
        said.contains("port taken") && said.contains("exit status: 3"),
        "{said}"
    );
}

#[tokio::test]
async fn words_of_an_earlier_start_do_not_count() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = shell("echo ready", &folder);
    first.wait_ended(PATIENCE).await.unwrap();

    let second = shell("sleep 1000", &folder);

    assert_eq!(first.log().tail(), "ready");
    assert_eq!(second.log().tail(), "");
}

#[tokio::test]
async fn a_signal_after_the_end_reaches_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let mut process = shell("exit 0", &folder);
    process.wait_ended(PATIENCE).await.unwrap();

    assert!(process.signal(Signal::TERM).is_ok());
    process.kill();
    process.kill();
}

#[test]
fn a_program_that_does_not_exist_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new("no-such-program-of-ours");
    let error = Process::start("it", &mut command, &folder.path().join("log")).unwrap_err();
    assert!(error.to_string().contains("no-such-program-of-ours"));
}
