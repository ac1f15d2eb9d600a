//! The limits: how fast the parts alone are that no implementation can leave out.
//!
//! Reads an archive of `dataset.py` into memory, then times one part at a time over exactly its records: AES-256-GCM, zstd
//! (inflating, and the raw blocks that the writer makes), SHA-256, and SQLCipher inserting and reading the same rows with the store's own schema, pragmas
//! and order of insertion. Nothing of the crate itself is used: a limit must not inherit the crate's mistakes.
//!
//! `limits ARCHIVE FOLDER [LIMIT…]` prints a line of JSON for each limit named (all of them if none is); with `-` as only
//! limit it reads names from standard input, so that a bench run can take turns between limits and rivals.

use std::error::Error;
use std::io::{BufRead, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::digest;
use rusqlite::{Connection, params};
use zstd::stream::raw::{Decoder, InBuffer, Operation, OutBuffer};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// The key of every archive that `dataset.py` makes.
const KEY: &[u8; 32] =
    b"\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\x10\x11\x12\x13\x14\x15\x16\x17\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f";
const HEADER_BYTES: usize = 14;
const TAG_BYTES: usize = 16;
const PREFIX_BYTES: usize = 4;
/// Records are sealed and opened in pieces of this size, so that they come from the processor's cache as they would in an
/// engine that streams, and not from memory.
const PIECE_BYTES: usize = 512 * 1024;
/// How much goes into one call of SHA-256.
const HASH_BYTES: usize = 128 * 1024;
/// Room for what zstd inflates at a time.
const INFLATE_BYTES: usize = 256 * 1024;
/// Room for raw blocks; a block holds up to half of it.
const FRAME_BYTES: usize = 256 * 1024;
/// How many messages the store collects before it writes their part of the timeline in order.
const TIMELINE_RUN: usize = 131_072;
const SCHEMA: &str = include_str!("../rust/store/sql/0001_initial.sql");
/// The store's pragmas, in the order it sends them.
const PRAGMAS: &str = "
    PRAGMA key = \"x'000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f'\";
    PRAGMA cipher_page_size = 8192;
    PRAGMA cipher_hmac_algorithm = HMAC_SHA256;
    PRAGMA wal_autocheckpoint = 0;
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = FULL;
    PRAGMA temp_store = MEMORY;
    PRAGMA cache_size = -16384;
    PRAGMA journal_size_limit = 16777216;";
const LIMITS: [&str; 7] = ["open", "seal", "inflate", "frame", "sha256", "insert", "read"];

/// What one limit did: time, bytes and rows.
struct Figure {
    elapsed: Duration,
    bytes: usize,
    rows: usize,
}

/// A field of a protobuf message.
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a protobuf message that is known to be well formed.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 127) << shift;
            if byte < 128 {
                return Some(value);
            }
        }
        None
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = (u64, Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let tag = self.varint()?;
        let value = self.varint()?;
        match tag & 7 {
            0 => Some((tag >> 3, Value::Number(value))),
            2 => {
                let (bytes, rest) = self.0.split_at_checked(usize::try_from(value).ok()?)?;
                self.0 = rest;
                Some((tag >> 3, Value::Bytes(bytes)))
            }
            _ => None,
        }
    }
}

/// A message as the store keeps it; the content stays where the plaintext is.
struct Row {
    id: [u8; 32],
    group: i64,
    header: i64,
    sent_at_ns: i64,
    delivery_status: i64,
    sequence_id: Option<i64>,
    originator_id: Option<i64>,
    content: Range<usize>,
}

/// What messages share: inbox and installation of the sender. The data set has one type of content.
type Header = (String, Vec<u8>);

/// An archive in memory, taken apart.
struct Archive {
    file: Vec<u8>,
    nonce: u128,
    /// The inflated stream: length prefixes and sealed records.
    stream: Vec<u8>,
    /// Where the sealed records are in `stream`.
    sealed: Vec<Range<usize>>,
    plain: Vec<u8>,
    groups: Vec<Vec<u8>>,
    headers: Vec<Header>,
    rows: Vec<Row>,
    consents: Vec<(i64, String)>,
}

fn cipher() -> Outcome<LessSafeKey> {
    Ok(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, KEY).map_err(|_| "key")?))
}

/// The nonce of an element: a 96-bit little-endian counter.
fn nonce(first: u128, index: usize) -> Outcome<Nonce> {
    let bytes = first.wrapping_add(index as u128).to_le_bytes();
    Ok(Nonce::try_assume_unique_for_key(bytes.get(..NONCE_LEN).ok_or("nonce")?)?)
}

fn number(value: &Value<'_>) -> i64 {
    match value {
        Value::Number(number) => *number as i64,
        Value::Bytes(_) => 0,
    }
}

fn bytes<'a>(value: &Value<'a>) -> &'a [u8] {
    match value {
        Value::Number(_) => &[],
        Value::Bytes(bytes) => bytes,
    }
}

/// Index of a value in a short list, from one, adding it if it is new.
fn intern<T: PartialEq>(list: &mut Vec<T>, value: T) -> Outcome<i64> {
    let at = list.iter().position(|known| *known == value).unwrap_or_else(|| {
        list.push(value);
        list.len() - 1
    });
    Ok(i64::try_from(at + 1)?)
}

impl Archive {
    fn load(path: &Path) -> Outcome<Self> {
        let file = std::fs::read(path)?;
        let header = file.get(..HEADER_BYTES).ok_or("not an archive")?;
        let first = header.iter().skip(2).rev().fold(0, |value: u128, &byte| value << 8 | u128::from(byte));
        let mut archive = Self {
            nonce: first,
            stream: Vec::with_capacity(file.len()),
            sealed: Vec::new(),
            plain: Vec::with_capacity(file.len()),
            groups: Vec::new(),
            headers: Vec::new(),
            rows: Vec::new(),
            consents: Vec::new(),
            file,
        };
        let mut stream = Vec::with_capacity(archive.file.len());
        inflate(archive.file.get(HEADER_BYTES..).ok_or("not an archive")?, |chunk| stream.extend_from_slice(chunk))?;
        archive.stream = stream;
        let key = cipher()?;
        let mut at = 0;
        while let Some(prefix) = archive.stream.get(at..).and_then(|rest| rest.first_chunk::<PREFIX_BYTES>()) {
            let start = at + PREFIX_BYTES;
            let record = start..start + usize::try_from(u32::from_le_bytes(*prefix))?;
            at = record.end;
            let mut sealed = archive.stream.get(record.clone()).ok_or("truncated")?.to_vec();
            let nonce = nonce(archive.nonce, archive.sealed.len())?;
            let plain = key.open_in_place(nonce, Aad::empty(), &mut sealed).map_err(|_| "wrong key")?;
            archive.sealed.push(record);
            archive.element(plain)?;
            archive.plain.extend_from_slice(plain);
        }
        Ok(archive)
    }

    fn element(&mut self, plain: &[u8]) -> Outcome<()> {
        for (kind, value) in Fields(plain) {
            let record = bytes(&value);
            match kind {
                2 => {
                    let id = Fields(record).find(|(field, _)| *field == 1).ok_or("group without id")?;
                    intern(&mut self.groups, bytes(&id.1).to_vec())?;
                }
                3 => {
                    let row = self.row(plain, record)?;
                    self.rows.push(row);
                }
                4 => {
                    let mut consent = (0, String::new());
                    for (field, value) in Fields(record) {
                        match field {
                            1 => consent.0 = number(&value),
                            3 => consent.1 = String::from_utf8(bytes(&value).to_vec())?,
                            _ => {}
                        }
                    }
                    self.consents.push(consent);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn row(&mut self, plain: &[u8], record: &[u8]) -> Outcome<Row> {
        let mut row = Row {
            id: [0; 32],
            group: 0,
            header: 0,
            sent_at_ns: 0,
            delivery_status: 0,
            sequence_id: None,
            originator_id: None,
            content: 0..0,
        };
        let mut header: Header = (String::new(), Vec::new());
        for (field, value) in Fields(record) {
            match field {
                1 => row.id = bytes(&value).try_into()?,
                2 => row.group = intern(&mut self.groups, bytes(&value).to_vec())?,
                3 => {
                    let content = bytes(&value);
                    let start = self.plain.len() + (content.as_ptr().addr() - plain.as_ptr().addr());
                    row.content = start..start + content.len();
                }
                4 => row.sent_at_ns = number(&value),
                6 => header.1 = bytes(&value).to_vec(),
                7 => header.0 = String::from_utf8(bytes(&value).to_vec())?,
                8 => row.delivery_status = number(&value),
                14 => row.sequence_id = Some(number(&value)),
                15 => row.originator_id = Some(number(&value)),
                _ => {}
            }
        }
        row.header = intern(&mut self.headers, header)?;
        Ok(row)
    }

    /// Runs `work` over all records, each in a buffer of its own size plus a tag, and counts the time of the work alone.
    ///
    /// The buffers of a piece are filled before its time starts to count.
    fn over_records(&self, mut work: impl FnMut(usize, &mut [u8]) -> Outcome<()>) -> Outcome<Figure> {
        let mut piece = Vec::with_capacity(PIECE_BYTES * 2);
        let mut lengths = Vec::new();
        let mut figure = Figure { elapsed: Duration::ZERO, bytes: 0, rows: self.sealed.len() };
        let mut records = self.sealed.iter().enumerate().peekable();
        while let Some((first, _)) = records.peek().copied() {
            piece.clear();
            lengths.clear();
            while let Some((_, record)) = records.next_if(|_| piece.len() < PIECE_BYTES) {
                piece.extend_from_slice(self.stream.get(record.clone()).ok_or("record")?);
                lengths.push(record.len());
            }
            figure.bytes += piece.len();
            let mut rest = piece.as_mut_slice();
            let started = Instant::now();
            for (index, &length) in (first..).zip(&lengths) {
                let (record, after) = std::mem::take(&mut rest).split_at_mut_checked(length).ok_or("record")?;
                rest = after;
                work(index, record)?;
            }
            figure.elapsed += started.elapsed();
        }
        Ok(figure)
    }

    fn open(&self) -> Outcome<Figure> {
        let key = cipher()?;
        self.over_records(|index, record| {
            key.open_in_place(nonce(self.nonce, index)?, Aad::empty(), record).map_err(|_| "damaged")?;
            Ok(())
        })
    }

    fn seal(&self) -> Outcome<Figure> {
        let key = cipher()?;
        self.over_records(|index, record| {
            let (plain, room) = record.split_at_mut_checked(record.len() - TAG_BYTES).ok_or("record")?;
            let nonce = nonce(self.nonce, index)?;
            let tag = key.seal_in_place_separate_tag(nonce, Aad::empty(), plain).map_err(|_| "seal")?;
            room.copy_from_slice(tag.as_ref());
            Ok(())
        })
    }

    fn inflate(&self) -> Outcome<Figure> {
        let frame = self.file.get(HEADER_BYTES..).ok_or("not an archive")?;
        let mut inflated = 0;
        let started = Instant::now();
        inflate(frame, |chunk| inflated += chunk.len())?;
        Ok(Figure { elapsed: started.elapsed(), bytes: inflated, rows: self.sealed.len() })
    }

    /// Puts the stream into raw blocks, which is all that the archive writer does for zstd: ciphertext does not compress.
    fn frame(&self) -> Outcome<Figure> {
        let mut output = Vec::with_capacity(FRAME_BYTES);
        let mut written = 0;
        let started = Instant::now();
        for block in self.stream.chunks(FRAME_BYTES / 2) {
            output.clear();
            output.extend_from_slice(&[0; 3]);
            output.extend_from_slice(std::hint::black_box(block));
            written += std::hint::black_box(&output).len();
        }
        Ok(Figure { elapsed: started.elapsed(), bytes: written, rows: self.sealed.len() })
    }

    fn sha256(&self) -> Outcome<Figure> {
        let started = Instant::now();
        let mut hash = digest::Context::new(&digest::SHA256);
        for chunk in self.file.chunks(HASH_BYTES) {
            hash.update(chunk);
        }
        std::hint::black_box(hash.finish());
        Ok(Figure { elapsed: started.elapsed(), bytes: self.file.len(), rows: self.sealed.len() })
    }

    /// Inserts everything in one transaction into a new database.
    fn insert(&self, path: &Path) -> Outcome<Figure> {
        remove_database(path);
        let connection = Connection::open(path)?;
        connection.execute_batch(PRAGMAS)?;
        connection.execute_batch(SCHEMA)?;
        let started = Instant::now();
        connection.execute_batch("BEGIN IMMEDIATE")?;
        self.insert_rows(&connection)?;
        connection.execute_batch("COMMIT")?;
        let elapsed = started.elapsed();
        let bytes = self.rows.iter().map(|row| row.content.len()).sum();
        Ok(Figure { elapsed, bytes, rows: self.rows.len() })
    }

    fn insert_rows(&self, connection: &Connection) -> Outcome<()> {
        let mut group = connection.prepare("INSERT INTO groups (key, id, known) VALUES (?1, ?2, 1)")?;
        let mut attribute = connection.prepare("INSERT INTO group_attributes VALUES (?1, ?2, 'value')")?;
        let mut admin = connection.prepare("INSERT INTO group_admins VALUES (?1, ?2, 0, ?3)")?;
        let inbox = self.headers.first().map_or("", |header| header.0.as_str());
        for (key, id) in (1_i64..).zip(&self.groups) {
            group.execute(params![key, id])?;
            for name in ["group_name", "description", "group_image_url_square", "app_data"] {
                attribute.execute(params![key, name])?;
            }
            for role in [1, 2] {
                admin.execute(params![key, role, inbox])?;
            }
        }
        let mut header =
            connection.prepare("INSERT INTO message_headers VALUES (?1, 1, ?2, ?3, 'text', 0, 1, 0, 'xmtp.org')")?;
        for (key, (inbox, installation)) in (1_i64..).zip(&self.headers) {
            header.execute(params![key, inbox, installation])?;
        }
        let mut message = connection
            .prepare("INSERT INTO group_messages VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, NULL, NULL)")?;
        let mut timeline = connection.prepare("INSERT INTO group_timeline VALUES (?1, ?2, ?3)")?;
        for run in self.rows.chunks(TIMELINE_RUN) {
            let mut entries = Vec::with_capacity(run.len());
            for row in run {
                let key = i64::from_be_bytes(*row.id.first_chunk().ok_or("id")?) ^ i64::MIN;
                message.execute(params![
                    key,
                    row.id.as_slice(),
                    row.group,
                    row.header,
                    row.sent_at_ns,
                    row.delivery_status,
                    row.sequence_id,
                    row.originator_id,
                    row.sent_at_ns,
                    self.plain.get(row.content.clone()).ok_or("content")?,
                ])?;
                entries.push((row.group, row.sent_at_ns, key));
            }
            entries.sort_unstable();
            for (group, sent_at_ns, key) in entries {
                timeline.execute(params![group, sent_at_ns, key])?;
            }
        }
        let mut consent = connection.prepare("INSERT INTO consent_records VALUES (?1, ?2, 2, 1)")?;
        for (entity_type, entity) in &self.consents {
            consent.execute(params![entity_type, entity])?;
        }
        Ok(())
    }

    /// Reads all columns of all messages in the order of an export, on a connection that has nothing cached.
    fn read(&self, path: &Path) -> Outcome<Figure> {
        if !path.exists() {
            self.insert(path)?;
        }
        let connection = Connection::open(path)?;
        connection.execute_batch(PRAGMAS)?;
        let started = Instant::now();
        let mut statement = connection.prepare("SELECT * FROM group_messages ORDER BY key")?;
        let (mut bytes, mut count) = (0, 0);
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let id = row.get_ref(1)?.as_blob()?;
            let content = row.get_ref(9)?.as_blob()?;
            let numbers = [row.get::<_, i64>(2)?, row.get(3)?, row.get(4)?, row.get(5)?];
            let optional: [Option<i64>; 3] = [row.get(6)?, row.get(7)?, row.get(11)?];
            let reference = row.get_ref(10)?.as_blob_or_null()?;
            std::hint::black_box((id, content, numbers, optional, reference));
            bytes += content.len();
            count += 1;
        }
        if count != self.rows.len() {
            return Err("rows are missing".into());
        }
        Ok(Figure { elapsed: started.elapsed(), bytes, rows: count })
    }

    fn limit(&self, name: &str, database: &Path) -> Outcome<Figure> {
        match name {
            "open" => self.open(),
            "seal" => self.seal(),
            "inflate" => self.inflate(),
            "frame" => self.frame(),
            "sha256" => self.sha256(),
            "insert" => self.insert(database),
            "read" => self.read(database),
            _ => Err(format!("no limit is called {name}").into()),
        }
    }
}

/// Decompresses a frame, handing out what it holds piece by piece.
fn inflate(frame: &[u8], mut each: impl FnMut(&[u8])) -> Outcome<()> {
    let mut decoder = Decoder::new()?;
    let mut output = vec![0; INFLATE_BYTES];
    let mut input = InBuffer::around(frame);
    loop {
        let mut target = OutBuffer::around(output.as_mut_slice());
        let hint = decoder.run(&mut input, &mut target)?;
        each(target.as_slice());
        if hint == 0 {
            return Ok(());
        }
        if input.pos() == frame.len() && target.pos() == 0 {
            return Err("the frame is truncated".into());
        }
    }
}

fn remove_database(path: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        // A file that is not there is as good as removed.
        let _ = std::fs::remove_file(PathBuf::from(name));
    }
}

fn report(archive: &Archive, name: &str, database: &Path) -> Outcome<()> {
    let Figure { elapsed, bytes, rows } = archive.limit(name, database)?;
    let seconds = elapsed.as_secs_f64();
    let mut output = std::io::stdout().lock();
    writeln!(output, "{{\"limit\": \"{name}\", \"seconds\": {seconds:.9}, \"bytes\": {bytes}, \"rows\": {rows}}}")?;
    Ok(output.flush()?)
}

fn main() -> Outcome<()> {
    // Cargo adds `--bench` to what it runs.
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let (Some(path), Some(folder)) = (arguments.next(), arguments.next()) else {
        println!("usage: limits ARCHIVE FOLDER [LIMIT…], with an archive made by benches/dataset.py");
        return Ok(());
    };
    let archive = Archive::load(Path::new(&path))?;
    let database = Path::new(&folder).join(format!("limits-{}.db", std::process::id()));
    let mut names: Vec<String> = arguments.collect();
    if names.is_empty() {
        names = LIMITS.map(str::to_owned).to_vec();
    }
    if names == ["-"] {
        for name in std::io::stdin().lock().lines() {
            report(&archive, name?.trim(), &database)?;
        }
    } else {
        for name in names {
            report(&archive, &name, &database)?;
        }
    }
    remove_database(&database);
    Ok(())
}
