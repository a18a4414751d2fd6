//! Lays the parts of a chunk table over each other: one ascending stream of what the newest part says.

use futures::{Stream, StreamExt};

use super::Run;

/// A merge of parts, newest first. Where no part says anything, nothing comes: those chunks are zero.
#[derive(Debug)]
pub struct Overlay<S> {
    inputs: Vec<Input<S>>,
    position: u64,
}

#[derive(Debug)]
struct Input<S> {
    stream: S,
    /// What the stream gave last; it ends after the overlay's position.
    current: Option<Run>,
    ended: bool,
}

impl<S, E> Overlay<S>
where
    S: Stream<Item = Result<Run, E>> + Unpin,
{
    /// An overlay of these parts, the newest first.
    pub fn new(newest_first: Vec<S>) -> Self {
        let inputs = newest_first.into_iter();
        let inputs = inputs
            .map(|stream| Input {
                stream,
                current: None,
                ended: false,
            })
            .collect();
        Overlay {
            inputs,
            position: 0,
        }
    }

    /// The next run: after the one before, not overlapping it.
    ///
    /// # Errors
    /// The first error of a part; there is nothing more then.
    pub async fn next(&mut self) -> Result<Option<Run>, E> {
        for input in &mut self.inputs {
            input.pass(self.position).await?;
        }
        let start = |run: &Run| run.first.max(self.position);
        let currents = || {
            self.inputs
                .iter()
                .filter_map(|input| input.current.as_ref())
        };
        let Some(from) = currents().map(start).min() else {
            return Ok(None);
        };
        let newest = self
            .inputs
            .iter()
            .position(|input| input.current.as_ref().is_some_and(|run| run.first <= from));
        let newest = newest.expect("some run starts at the least start");
        let run = self.inputs[newest]
            .current
            .as_ref()
            .expect("it was found by its run");
        // A newer part that begins inside of this run takes over from there.
        let newer = self.inputs[..newest]
            .iter()
            .filter_map(|input| input.current.as_ref());
        let to = newer.map(|run| run.first).fold(run.end(), u64::min);
        let run = run.slice(from, to);
        self.position = to;
        Ok(Some(run))
    }
}

impl<S, E> Input<S>
where
    S: Stream<Item = Result<Run, E>> + Unpin,
{
    /// Goes on to the first run that ends after `position`.
    async fn pass(&mut self, position: u64) -> Result<(), E> {
        while !self.ended
            && self
                .current
                .as_ref()
                .is_none_or(|run| run.end() <= position)
        {
            self.current = self.stream.next().await.transpose()?;
            self.ended = self.current.is_none();
        }
        Ok(())
    }
}
