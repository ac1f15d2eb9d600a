//! Importing an archive: bytes in, records into the store, all in one transaction.
//!
//! The caller's thread opens and checks the archive; a thread of the import's own merges the records into the database.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use rusqlite::{Connection, params};

use super::batch::{BATCHES_WAITING, Batch};
use super::connection::{CHECKPOINT_PAGES, Location, Writer};
use super::error::Error;
use super::merge::{Merge, Origin};
use super::report::ImportReport;
use super::{Store, now_ns};
use crate::archive::{self, Limits, Reader, Summary};
use crate::crypto::{ArchiveKey, Sha256};
use crate::wire::{self, Element, Metadata};

/// How to import.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// Skip invalid records and report them, instead of refusing the archive.
    pub lenient: bool,
    /// The user's own inbox: tells DMs of somebody else's archive, and dates no decision about consent later than now.
    pub inbox_id: Option<String>,
    /// Bounds for the archive reader.
    pub limits: Limits,
}

/// An import under way. It owns the store's writing connection; nothing is visible to anybody until
/// [`finish`](Importer::finish), and dropping it undoes everything.
pub struct Importer {
    reader: Reader,
    digest: Sha256,
    batch: Batch,
    records: u64,
    merging: Merging,
    store: Arc<super::Shared>,
}

/// What the merging thread is told.
enum Job {
    Merge(Batch),
    Commit(Ending),
}

/// What only the end of an archive tells.
struct Ending {
    summary: Summary,
    metadata: Metadata,
    digest: [u8; 32],
}

/// The merging thread, and the two ways to and from it.
struct Merging {
    jobs: Option<SyncSender<Job>>,
    result: Receiver<Result<ImportReport, Error>>,
    thread: Option<JoinHandle<()>>,
}

impl Store {
    /// Starts an import of an archive sealed with `key`.
    ///
    /// # Errors
    /// [`Error::Locked`] if another writer does not finish in time.
    pub fn import(&self, key: &ArchiveKey, options: ImportOptions) -> Result<Importer, Error> {
        let writer = self.begin()?;
        let origin = Origin::Archive { lenient: options.lenient, inbox_id: options.inbox_id };
        let merge = Merge::new(origin, now_ns());
        Ok(Importer {
            reader: Reader::new(key, options.limits),
            digest: Sha256::new(),
            batch: Batch::default(),
            records: 0,
            merging: Merging::start(writer, merge, Arc::clone(&self.shared.location))?,
            store: Arc::clone(&self.shared),
        })
    }
}

impl Importer {
    /// Takes the next bytes of the archive, cut anywhere.
    ///
    /// # Errors
    /// [`Error::Archive`] for a damaged archive, or any error of the database. The import cannot go on after one.
    pub fn push(&mut self, input: &[u8]) -> Result<(), Error> {
        self.digest.update(input);
        let Self { reader, batch, records, merging, .. } = self;
        reader.push(input, |opened: archive::Opened<'_>| {
            if let Element::Group(_) | Element::Message(_) | Element::Consent(_) = opened.element {
                *records += 1;
                batch.push(&opened);
                if batch.is_full() {
                    return merging.send(Job::Merge(std::mem::take(batch)));
                }
            }
            Ok(())
        })
    }

    /// Records read so far.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Ends the archive and commits. What was written ahead is moved to its place afterwards, in the background.
    ///
    /// # Errors
    /// [`Error::Archive`] if the archive is not complete, [`Error::InvalidRecords`] in a strict import, or any error of the
    /// database. Nothing is stored then.
    pub fn finish(mut self) -> Result<ImportReport, Error> {
        let summary = self.reader.finish()?;
        let metadata = self.reader.metadata().cloned().unwrap_or_default();
        self.merging.send(Job::Merge(std::mem::take(&mut self.batch)))?;
        self.merging.send(Job::Commit(Ending { summary, metadata, digest: self.digest.clone().finish() }))?;
        let report = self.merging.result()?;
        if let Some(thread) = self.merging.thread.take() {
            self.store.in_background(thread);
        }
        Ok(report)
    }
}

impl Merging {
    fn start(writer: Writer, mut merge: Merge, location: Arc<Location>) -> Result<Self, Error> {
        let (jobs, queue) = sync_channel(BATCHES_WAITING);
        let (answer, result) = sync_channel(1);
        let thread = std::thread::Builder::new().name("xmtp-import".into()).spawn(move || {
            let merged = (|| loop {
                match queue.recv() {
                    Ok(Job::Merge(batch)) => merge_batch(&mut merge, &writer, &batch)?,
                    Ok(Job::Commit(ending)) => return commit(merge, &writer, ending).map(Some),
                    Err(_) => return Ok(None),
                }
            })();
            // Home before the answer, so that whoever gets it finds the store free.
            drop(writer);
            if let Some(merged) = merged.transpose() {
                let committed = merged.is_ok();
                // Nobody waits for the answer any more if the import was dropped.
                let _ = answer.send(merged);
                if committed {
                    checkpoint(&location);
                }
            }
        });
        let thread = thread.map_err(|error| Error::NoThread(error.to_string()))?;
        Ok(Self { jobs: Some(jobs), result, thread: Some(thread) })
    }

    fn send(&self, job: Job) -> Result<(), Error> {
        match &self.jobs {
            Some(jobs) if jobs.send(job).is_ok() => Ok(()),
            // The thread only stops listening when it has failed.
            _ => self.result().map(|_| ()),
        }
    }

    fn result(&self) -> Result<ImportReport, Error> {
        self.result.recv().unwrap_or(Err(Error::Interrupted))
    }
}

impl Drop for Merging {
    /// Without a commit, the end of the jobs is the end of the transaction; waits until it is undone.
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn merge_batch(merge: &mut Merge, connection: &Connection, batch: &Batch) -> Result<(), Error> {
    let mut target = merge.target(connection)?;
    for (index, plaintext) in batch.iter() {
        // It was decoded before, when the archive was checked.
        let Ok((element, _)) = wire::decode_element(plaintext) else { return Err(Error::Interrupted) };
        match element {
            Element::Group(group) => target.group(index, &group)?,
            Element::Message(message) => target.message(index, &message)?,
            Element::Consent(consent) => target.consent(index, &consent)?,
            _ => {}
        }
    }
    Ok(())
}

fn commit(merge: Merge, connection: &Connection, ending: Ending) -> Result<ImportReport, Error> {
    let Ending { summary, metadata, digest } = ending;
    let now_ns = merge.now_ns();
    let mut report = merge.finish(connection)?;
    report.legacy = summary.legacy;
    report.unknown_elements = summary.unknown_elements + summary.events;
    let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    connection.execute(
        "INSERT INTO imports (imported_at_ns, archive_sha256, archive_bytes, backup_version, legacy, exported_at_ns,
                start_ns, end_ns, new_records, skipped_records, orphan_messages)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        params![
            now_ns,
            digest,
            number(summary.archive_bytes),
            archive::VERSION,
            summary.legacy,
            metadata.exported_at_ns,
            metadata.start_ns,
            metadata.end_ns,
            number(report.new.total()),
            number(report.skipped.total()),
            number(report.orphans),
        ],
    )?;
    // SQLite would copy the log into the file before COMMIT returns; the data are safe in the log.
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    let committed = connection.execute_batch("COMMIT");
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    committed?;
    report.metadata = Some(metadata);
    Ok(report)
}

/// Copies the log into the file, as far as nobody reads it. What is left is copied by a later write or close.
fn checkpoint(location: &Location) {
    if let Ok(connection) = location.connect() {
        let _ = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
    }
}
