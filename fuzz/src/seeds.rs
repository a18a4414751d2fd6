//! The seeds of all targets: what each input of `seeds/` that is not called `found-…` was made by.
//!
//! Everything is written by the library itself or by hand here; nothing is taken from another program's files. The
//! test `corpus` writes them anew when it is asked to.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;
use serde_json::{Value, json};
use site_recovery::replica::document::{self, Document};
use site_recovery::replica::fence::Fence;
use site_recovery::replica::manifest::Manifest;
use site_recovery::replica::owner::Owner;
use site_recovery::replica::record::Record;
use site_recovery::replica::seal::Seal;
use site_recovery::replica::table::parts::Writer;
use site_recovery::replica::table::{Run, States};
use site_recovery::units::{CHUNK, KIB};

use super::{seed_images, seed_logs};

/// An input that is kept.
pub struct Seed {
    pub target: &'static str,
    pub name: &'static str,
    pub bytes: Vec<u8>,
}

/// All seeds.
pub fn all() -> Vec<Seed> {
    let by_target = [
        ("chunk_table", chunk_tables()),
        ("documents", documents()),
        ("hrl", seed_logs::hrl()),
        ("page_ranges", answers()),
        ("vhd", seed_images::vhd()),
        ("vhdx", seed_images::vhdx()),
        ("wire", messages()),
    ];
    let seeds = by_target.into_iter().flat_map(|(target, seeds)| {
        seeds.into_iter().map(move |(name, bytes)| Seed {
            target,
            name,
            bytes,
        })
    });
    seeds.collect()
}

/// A seed's name and bytes.
type Named = (&'static str, Vec<u8>);

fn chunk_tables() -> Vec<Named> {
    let size = 700 * CHUNK + 5;
    let runs = [
        run(0, States::Zero(3)),
        run(3, States::Hashes(Bytes::from_static(&[7; 96]))),
        run(10, States::Touched(600)),
        run(610, States::Zero(91)),
    ];
    let mut writer = Writer::new(size);
    runs.iter().for_each(|run| writer.push(run));
    let (whole, _, _) = writer.finish();
    let (empty, _, _) = Writer::new(size).finish();
    let input = |size: u64, piece: u16, part: &[u8]| {
        [&size.to_le_bytes()[..], &piece.to_le_bytes(), part].concat()
    };
    let patched = |at: usize, bytes: &[u8]| {
        let mut part = whole.to_vec();
        part[at..at + bytes.len()].copy_from_slice(bytes);
        input(size, 33, &part)
    };
    vec![
        ("whole", input(size, 33, &whole)),
        ("empty", input(size, 1, &empty)),
        ("disk-has-grown", input(2 * size, 100, &whole)),
        ("disk-is-smaller", input(size / 2, 100, &whole)),
        ("end-cut", input(size, 100, &whole[..whole.len() - 16])),
        ("hash-cut", input(size, 100, &whole[..32 + 16 + 16 + 40])),
        (
            "more-behind",
            input(size, 16, &[&empty[..], &empty[32..]].concat()),
        ),
        ("count-zero", patched(36, &[0; 4])),
        ("count-huge", patched(36, &[0xff; 4])),
        ("first-huge", patched(40, &[0xff; 8])),
        ("hashes-huge", patched(52, &[0xff; 4])),
        ("unknown-kind", patched(32, &[4])),
        ("other-chunks", patched(24, &(32 * KIB).to_le_bytes()[..4])),
        ("version-2", patched(8, &[2])),
    ]
}

fn run(first: u64, states: States) -> Run {
    Run { first, states }
}

const REPLICA: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaa";
const CHAIN: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbb";
const DISK: &str = "cccccccccccccccccccccccccc";
const VM: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";
const LOG: &str = "7c9e6679-7425-40de-944b-e07fc1f90ae7";
const TIME: &str = "2026-09-21T14:13:20Z";

#[expect(
    clippy::too_many_lines,
    reason = "a list of seeds is read line by line"
)]
fn documents() -> Vec<Named> {
    let hash = "ab".repeat(32);
    let first = json!({
        "replica": REPLICA, "chain": CHAIN, "sequence": "0000000000000001", "prev": null,
        "writer": {"host": "hv1", "generation": 3}, "barrier": null,
        "disks": [{"disk": DISK, "size": 1048576, "kind": "Copy", "logs": [
            {"log": LOG, "range": {"start": 0, "end": 65536}, "encoding": "Zstd", "stored": 900, "length": 70000,
             "blake3": hash}], "cursor": {"copying": {"point": "p1", "position": 65536}}}],
    });
    let mut last = first.clone();
    last["sequence"] = json!("000000000000002a");
    last["prev"] = json!(hash);
    last["barrier"] = json!({"time": TIME, "consistency": "Final"});
    last["disks"][0]["kind"] = json!("Delta");
    last["disks"][0]["cursor"] = json!({"tracking": {"cursor": "1:7"}});
    let overlap = with(
        &first,
        &["disks", "0", "logs"],
        &json!([first["disks"][0]["logs"][0], first["disks"][0]["logs"][0]]),
    );
    let mut manifest = json!({
        "replica": REPLICA, "writer": {"generation": 2, "cycle": 9}, "chain": CHAIN,
        "lastApplied": {"sequence": "000000000000002a", "seal": hash,
            "cursors": {DISK: {"copied": {"point": "p1"}}}},
        "disks": {DISK: {"size": 1048576, "head": {"consistent": {"sequence": "000000000000002a"}}, "tables": [
            {"blob": "t", "from": "0000000000000000", "to": "000000000000002a", "length": 48, "blake3": hash}]}},
        "points": [{"id": CHAIN, "sequence": "000000000000002a", "barrier": {"time": TIME, "consistency": "Crash"},
            "published": TIME, "disks": {DISK: {"snapshot": "2026-09-21T14:13:20.0000000Z", "size": 1048576}}}],
    });
    let named = |document: &Value| named(document, 1);
    let applying = with(
        &manifest,
        &["disks", DISK, "head"],
        &json!({"applying": {"target": "000000000000002b"}}),
    );
    let sealed = with(
        &manifest,
        &["disks", DISK, "head"],
        &json!({"sealed": {"sequence": "000000000000002a", "run": "r"}}),
    );
    let last_table = with(
        &manifest,
        &["disks", DISK, "tables", "0", "to"],
        &json!("ffffffffffffffff"),
    );
    let last_sequence = with(
        &manifest,
        &["lastApplied", "sequence"],
        &json!("ffffffffffffffff"),
    );
    let last_owner = with(&manifest, &["writer", "generation"], &json!(u64::MAX));
    let last_cycle = with(
        &manifest,
        &["writer"],
        &json!({"generation": 2_147_483_647_u32, "cycle": u32::MAX}),
    );
    manifest["points"] = json!([]);
    let fence = json!({
        "replica": REPLICA, "generation": 3, "epoch": 4, "activeSide": "OnPremises", "activeRun": null,
        "pinned": [CHAIN], "machine": {"vm": VM, "name": "web", "boot": "Gen2", "processors": 2, "memoryMib": 4096,
            "secureBoot": true, "guestOs": "Debian", "networkAdapters": [{"name": "lan", "mac": "00155d000001",
            "switch": "s", "addresses": ["10.0.0.4", "fe80::1"]}], "disks": [{"id": DISK, "slot": "scsi:0:0",
            "identifier": VM, "size": 1048576, "boot": true}]},
    });
    let record = json!({
        "object": "dr/web", "replica": REPLICA, "vm": VM, "vmName": "web", "formerVms": [VM], "created": TIME,
        "retained": false,
    });
    let owner = json!({"cluster": VM, "site": "dr/site"});
    vec![
        ("seal-first", checked::<Seal>(named(&first))),
        ("seal-final", checked::<Seal>(named(&last))),
        ("seal-overlap", named(&overlap)),
        (
            "seal-empty-disk",
            named(&with(&first, &["disks", "0", "size"], &json!(0))),
        ),
        (
            "seal-last-sequence",
            named(&with(&first, &["sequence"], &json!("ffffffffffffffff"))),
        ),
        ("manifest", checked::<Manifest>(named(&manifest))),
        ("manifest-applying", checked::<Manifest>(named(&applying))),
        ("manifest-sealed", checked::<Manifest>(named(&sealed))),
        ("manifest-last-table", named(&last_table)),
        ("manifest-last-sequence", named(&last_sequence)),
        ("manifest-last-owner", named(&last_owner)),
        ("manifest-last-cycle", named(&last_cycle)),
        ("fence", checked::<Fence>(named(&fence))),
        ("record", checked::<Record>(named(&record))),
        ("owner", checked::<Owner>(named(&owner))),
        ("too-new", self::named(&owner, 2)),
        ("newest", self::named(&owner, u64::MAX)),
        ("format-alone", b"{\"format\":1}".to_vec()),
        (
            "long-text",
            named(&with(&owner, &["site"], &json!("x".repeat(3000)))),
        ),
    ]
}

/// A document's bytes, with its format.
fn named(document: &Value, format: u64) -> Vec<u8> {
    let mut document = document.clone();
    document["format"] = json!(format);
    compact(&document)
}

/// The bytes of a seed that must decode, so that it does not rot.
fn checked<T: Document>(bytes: Vec<u8>) -> Vec<u8> {
    let decoded: T = document::decode(&bytes).expect("a seed of the present format");
    drop(decoded);
    bytes
}

/// The document with another value at `path`.
fn with(document: &Value, path: &[&str], value: &Value) -> Value {
    let mut document = document.clone();
    let pointer: String = path.iter().flat_map(|step| ["/", step]).collect();
    *document.pointer_mut(&pointer).expect("the path exists") = value.clone();
    document
}

fn compact(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("it is data")
}

/// Bodies of the wire, one a line.
#[expect(
    clippy::too_many_lines,
    reason = "a list of seeds is read line by line"
)]
fn messages() -> Vec<Named> {
    let golden =
        |text: &str| -> Value { serde_json::from_str(text).expect("a golden file is JSON") };
    let observations = golden(include_str!("../../src/wire/golden/observations.json"));
    let relationship = golden(include_str!("../../src/wire/golden/relationship.json"));
    let answers = golden(include_str!("../../src/wire/golden/hello-reply.json"));
    let machine = json!({
        "id": VM, "name": "web", "boot": "Gen1", "power": {"Other": 32774}, "busy": {"operation": "merging disks",
        "percent": 40}, "processors": 2, "memoryMib": 4096, "secureBoot": false, "guestOs": null, "replicatedBy": null,
        "disks": [{"slot": "scsi:0:1", "backing": "Vhdx", "path": "D:\\web.vhdx", "virtualSize": 1048576,
            "logicalSector": 512, "physicalSector": 4096, "identifier": VM, "boot": true,
            "volume": {"name": "D:\\", "free": 5, "size": 9}, "problem": {"code": "FromTheFuture", "message": "m"}}],
        "networkAdapters": [{"name": "lan", "mac": null, "switch": null, "addresses": ["10.0.0.4"]}],
    });
    let host = json!({"machines": [machine], "fault": {"code": "HostTimeout", "message": "m"}});
    let with_host = {
        let mut news = observations.clone();
        news["host"] = host;
        news["revision"] = json!(8);
        news
    };
    let gone = with(
        &with(&observations, &["replications"], &json!([])),
        &["existing"],
        &json!([]),
    );
    let back = with(&observations, &["revision"], &json!(0));
    let replication = &observations["replications"][0];
    let twice = with(
        &observations,
        &["replications"],
        &json!([replication, replication]),
    );
    let void = with(&observations, &["session"], &json!(LOG));
    let command =
        |body: Value| json!({"generation": 3, "operation": REPLICA, "run": "r", "body": body});
    let lines = |lines: &[Value]| {
        let lines: Vec<_> = lines.iter().map(compact).collect();
        lines.join(&b'\n')
    };
    vec![
        (
            "hello",
            lines(&[
                golden(include_str!("../../src/wire/golden/hello.json")),
                answers,
            ]),
        ),
        ("relationship", lines(&[relationship])),
        (
            "commands",
            lines(&[
                command(json!({})),
                command(json!({"bandwidth": 9})),
                json!({"operation": CHAIN}),
            ]),
        ),
        (
            "versions",
            lines(&[
                json!({"oldest": 0, "newest": 4_294_967_295_u32}),
                json!({"oldest": 2, "newest": 1}),
            ]),
        ),
        (
            "news",
            lines(&[observations.clone(), with_host.clone(), gone, void]),
        ),
        ("news-that-went-back", lines(&[with_host, back])),
        ("news-twice", lines(&[observations.clone(), twice])),
        (
            "news-of-nobody",
            lines(&[with(&observations, &["existing"], &json!([]))]),
        ),
        (
            "fault",
            lines(&[json!({"code": "HostBusy", "message": "merging"})]),
        ),
        ("proxy", b"<html>\n<title>502</title>\xff".to_vec()),
    ]
}

/// Answers of the storage service.
fn answers() -> Vec<Named> {
    const BLOB: &str = "<Properties><Creation-Time>Wed, 21 Jan 2026 10:00:00 GMT</Creation-Time><Last-Modified>Wed, 21 \
        Jan 2026 10:00:01 GMT</Last-Modified><Etag>0x8DE58D1C2B3A4F0</Etag><Content-Length>1024</Content-Length>\
        <BlobType>PageBlob</BlobType></Properties>";
    let pages = |inner: &str| {
        format!("\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?><PageList>{inner}</PageList>")
    };
    let range = |kind: &str, start: &str, end: &str| {
        format!("<{kind}><Start>{start}</Start><End>{end}</End></{kind}>")
    };
    let listing = |inner: &str| {
        format!(
            "<EnumerationResults><Blobs>{inner}</Blobs><NextMarker>2!a&amp;b</NextMarker></EnumerationResults>"
        )
    };
    let blob = |inner: &str| format!("<Blob>{inner}{BLOB}</Blob>");
    let seeds: BTreeMap<&'static str, String> = BTreeMap::from([
        ("no-pages", pages("")),
        ("pages", pages(&[range("PageRange", "0", "511"), range("PageRange", "512", "1023"),
            range("ClearRange", "1024", "4095"), range("PageRange", "8192", "8703")].concat())),
        ("pages-of-a-large-blob", pages(&range("PageRange", "8795019280384", "8796093022207"))),
        ("last-page-there-is", pages(&range("PageRange", "18446744073709551104", "18446744073709551615"))),
        ("pages-backwards", pages(&[range("PageRange", "512", "1023"), range("PageRange", "0", "511")].concat())),
        ("half-pages", pages(&range("PageRange", "1", "512"))),
        ("start-without-end", pages("<PageRange><Start>0</Start></PageRange>")),
        ("blobs", listing(&[blob("<Name>a&lt;b</Name><Snapshot>2026-01-31T12:00:00.0000000Z</Snapshot>"),
            blob("<Name Encoded=\"true\">%61%00%c3%a4</Name><Metadata><Point>x &#x41;<![CDATA[<y>]]></Point></Metadata>")]
            .concat())),
        ("blobs-without-names", listing(&blob(""))),
        ("names-half-encoded", listing(&blob("<Name Encoded=\"true\">%6</Name>"))),
        ("containers", format!("<EnumerationResults><Containers><Container><Name>dr-i-a</Name>{BLOB}</Container>\
            </Containers><NextMarker/></EnumerationResults>")),
        ("key", "<UserDelegationKey><SignedOid>o</SignedOid><SignedTid>t</SignedTid><SignedStart>s</SignedStart>\
            <SignedExpiry>e</SignedExpiry><SignedService>b</SignedService><SignedVersion>v</SignedVersion><Value>a2V5\
            </Value></UserDelegationKey>".to_owned()),
        ("settings", "<StorageServiceProperties><DeleteRetentionPolicy><Enabled>true</Enabled><Days>7</Days>\
            </DeleteRetentionPolicy><IsVersioningEnabled>true</IsVersioningEnabled></StorageServiceProperties>".to_owned()),
        ("error", "<?xml version=\"1.0\"?><Error><Code>BlobNotFound</Code><Message>The specified blob does not exist.\n\
            </Message></Error>".to_owned()),
        ("page-of-html", "<html><head><title>502</head>".to_owned()),
        ("entities", "<!DOCTYPE a [<!ENTITY x \"y\">]><PageList>&x;</PageList>".to_owned()),
        ("deep", "<a>".repeat(40)),
    ]);
    seeds
        .into_iter()
        .map(|(name, xml)| (name, xml.into_bytes()))
        .collect()
}
