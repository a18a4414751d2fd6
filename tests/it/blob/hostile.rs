//! Answers that no service would give: none of them panics, none of them is believed.

use proptest::prelude::{ProptestConfig, any, prop, proptest};
use site_recovery::blob::xml::{error_body, listing, pages, service};

const LISTING: &str = "<?xml version=\"1.0\" encoding=\"utf-8\"?><EnumerationResults><Blobs><Blob>\
    <Name>a&amp;b</Name><Snapshot>2026-01-21T10:00:01.0000000Z</Snapshot><Properties>\
    <Last-Modified>Wed, 21 Jan 2026 10:00:01 GMT</Last-Modified><Etag>0x8D</Etag>\
    <Content-Length>1024</Content-Length><BlobType>PageBlob</BlobType></Properties>\
    <Metadata><a>b</a></Metadata></Blob></Blobs><NextMarker/></EnumerationResults>";
const PAGES: &str = "<PageList><PageRange><Start>0</Start><End>511</End></PageRange>\
    <ClearRange><Start>512</Start><End>1023</End></ClearRange><NextMarker>m</NextMarker></PageList>";

/// Every reader sees `bytes`; what it makes of them is its affair, as long as it comes back.
fn read_by_all(bytes: &[u8]) {
    let _ = listing::blobs(bytes);
    let _ = listing::containers(bytes);
    let _ = service::properties(bytes);
    let _ = service::delegation_key(bytes);
    let _ = error_body(bytes);
    if let Ok(list) = pages::ranges(bytes, 1 << 20) {
        assert!(list.ranges.iter().all(|page| page.range.end() <= 1 << 20));
        assert!(
            list.ranges
                .windows(2)
                .all(|two| two[0].range.end() <= two[1].range.start())
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_damaged_answer_never_panics(
        page_list in any::<bool>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = if page_list { PAGES } else { LISTING }.as_bytes().to_vec();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        read_by_all(&bytes);
        bytes.truncate(cut.index(bytes.len()));
        read_by_all(&bytes);
    }

    #[test]
    fn numbers_beyond_reason_never_panic(start in any::<u128>(), end in any::<u128>()) {
        let xml = format!("<PageList><PageRange><Start>{start}</Start><End>{end}</End></PageRange></PageList>");
        read_by_all(xml.as_bytes());
    }
}

#[test]
fn every_cut_of_a_listing_and_of_a_page_list_is_an_error() {
    for end in 0..LISTING.len() {
        assert!(listing::blobs(&LISTING.as_bytes()[..end]).is_err(), "{end}");
    }
    for end in 0..PAGES.len() {
        assert!(
            pages::ranges(&PAGES.as_bytes()[..end], 1024).is_err(),
            "{end}"
        );
    }
    assert!(listing::blobs(LISTING.as_bytes()).is_ok());
    assert!(pages::ranges(PAGES.as_bytes(), 1024).is_ok());
}

#[test]
fn entities_that_would_grow_are_refused() {
    let bomb = "<!DOCTYPE a [<!ENTITY b \"&c;&c;\"><!ENTITY c \"0\">]><PageList>&b;</PageList>";
    assert!(pages::ranges(bomb.as_bytes(), 1024).is_err());
}
