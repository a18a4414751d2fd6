//! The chunk table of a point is what all of its parts say, however many.

use rand::{RngExt as _, SeedableRng, rngs::StdRng};
use site_recovery::datapath::content::table::compose;
use site_recovery::datapath::tables::NewPart;
use site_recovery::replica::table::{Chunk, Run, States};
use site_recovery::units::{CHUNK, Sequence};

use crate::replication::world::World;

const CHUNKS: u64 = 300;

fn run(random: &mut StdRng, first: u64, count: u64) -> Run {
    let states = match random.random_range(0..3) {
        0 => States::Zero(count),
        1 => States::Touched(count),
        _ => {
            let mut hashes = vec![0; usize::try_from(count).unwrap() * 32];
            random.fill(hashes.as_mut_slice());
            States::Hashes(hashes.into())
        }
    };
    Run { first, states }
}

#[tokio::test]
async fn a_table_of_more_parts_than_are_merged_at_one_time_reads_as_one() {
    // Given 70 parts, each of which says something of a few stretches
    let world = World::new(&[usize::try_from(CHUNKS * CHUNK).unwrap()]).await;
    let disk = world.disks.keys().next().unwrap();
    let mut random = StdRng::seed_from_u64(11);
    let (mut parts, mut model) = (Vec::new(), vec![Chunk::Zero; 300]);
    for sequence in 1..=70 {
        let at = Sequence::new(sequence);
        let mut part = NewPart::new(&world.cloud, disk, CHUNKS * CHUNK, (at, at), 0);
        let mut next = 0;
        while next < CHUNKS {
            let first = next + random.random_range(0..60);
            let count = random.random_range(1..20).min(CHUNKS.saturating_sub(first));
            if count == 0 {
                break;
            }
            let run = run(&mut random, first, count);
            for index in run.first..run.end() {
                model[usize::try_from(index).unwrap()] = run.get(index).unwrap();
            }
            part.push(&run).await.unwrap();
            next = run.end();
        }
        parts.push(part.finish().await.unwrap());
    }
    // When they are composed and read in windows
    let composed = compose(&world.cloud, &parts, CHUNKS * CHUNK).await;
    let mut table = composed.unwrap();
    let mut found = vec![Chunk::Zero; 300];
    for end in (0..=CHUNKS).step_by(50) {
        for run in table.window(end).await.unwrap() {
            assert!(run.end() <= end);
            for index in run.first..run.end() {
                found[usize::try_from(index).unwrap()] = run.get(index).unwrap();
            }
        }
    }
    // Then it is what the newest part says of each chunk.
    assert!(found == model);
}
