//! What the cache promises: whole or not there, made once, whoever asks at the same time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::*;

const ITEM: Item<'static> = Item {
    name: "thing",
    version: "1.0",
    inputs: &["sum a"],
    expected: &["bin/thing"],
    work: "making a thing",
    takes: "no time",
};

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[test]
fn callers_at_the_same_time_make_it_once_and_get_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::new(folder.path().join("cache"));
    let made = AtomicUsize::new(0);
    let make = |installation: &mut Installation| {
        made.fetch_add(1, Ordering::SeqCst);
        installation.write("bin/thing", "content")
    };

    let homes: Vec<PathBuf> = thread::scope(|scope| {
        let callers = [(); 8].map(|()| scope.spawn(|| cache.obtain(&ITEM, make).unwrap()));
        callers.map(|caller| caller.join().unwrap()).to_vec()
    });

    assert_eq!(made.load(Ordering::SeqCst), 1);
    for home in &homes {
        assert_eq!(home, &homes[0]);
        let content = fs::read_to_string(home.join("bin/thing")).unwrap();
        assert_eq!(content, "content");
    }
}

#[test]
fn what_failed_leaves_nothing_and_is_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::new(folder.path().to_owned());
    let failed = cache.obtain(&ITEM, |installation| {
        installation.write("bin/half", "content")?;
        Err(Error::NoCache)
    });
    assert!(failed.is_err());
    assert_eq!(names(folder.path()), [format!("{}.lock", ITEM.key())]);

    let made = cache.obtain(&ITEM, |installation| {
        installation.write("bin/thing", "content")
    });
    assert!(made.unwrap().join("bin/thing").exists());
}

#[test]
fn what_ends_well_without_making_what_was_expected_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::new(folder.path().to_owned());
    let error = cache
        .obtain(&ITEM, |installation| installation.write("bin/thing", ""))
        .unwrap_err();
    assert!(matches!(error, Error::Incomplete { .. }), "{error}");
}

#[test]
fn what_a_killed_maker_left_is_removed_and_what_lost_a_file_is_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::new(folder.path().to_owned());
    let leftover = folder.path().join(format!("{}.tmp-Ab12", ITEM.key()));
    let broken = folder.path().join(ITEM.key()).join("bin");
    for path in [&leftover, &broken] {
        fs::create_dir_all(path).unwrap();
        fs::write(path.join("half"), "x").unwrap();
    }

    let home = cache
        .obtain(&ITEM, |installation| {
            installation.write("bin/thing", "content")
        })
        .unwrap();

    assert!(home.join("bin/thing").exists() && !home.join("bin/half").exists());
    assert!(!leftover.exists());
}

#[test]
fn other_inputs_are_another_thing() {
    let other = Item {
        inputs: &["sum b"],
        ..ITEM
    };
    let split = Item {
        inputs: &["sum", " a"],
        ..ITEM
    };
    assert_ne!(ITEM.key(), other.key());
    assert_ne!(ITEM.key(), split.key());
}
