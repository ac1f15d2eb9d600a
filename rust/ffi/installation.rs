//! An installation across the C ABI: one call for everything, with a JSON request and whatever bytes a node gave.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::buffer::XhBuffer;
use super::bytes;
use super::error::{XhError, guard};
use super::store::XhStore;
use crate::identity::{self, AssociationState, ContractSignature, Identifier, Member, MemberRecord, WalletSignature};
use crate::mls::{
    self, ArchiveOptions, BackupMetadataSave, GroupRow, Installation, News, Outgoing, Received, Refusal, Reply,
    Request, Subject, SyncMessage, Task, Update,
};
use prost::Message as _;

/// An installation, until it is closed.
pub struct XhInstallation(Mutex<Option<Arc<Installation>>>);

impl XhInstallation {
    fn get(&self) -> Result<Arc<Installation>, XhError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone().ok_or_else(XhError::closed)
    }
}

/// What an identity update is to do.
#[derive(Deserialize)]
#[serde(tag = "update", rename_all = "snake_case")]
enum UpdateRequest {
    Create { nonce: u64 },
    Add,
    Revoke { installation_ids: Vec<String> },
}

/// How a wallet has signed.
#[derive(Deserialize)]
#[serde(tag = "signature", rename_all = "snake_case")]
enum SignatureRequest {
    Eoa { bytes: String },
    Contract { account_id: String, block_number: u64, bytes: String },
}

/// What an archive is to hold.
#[derive(Deserialize, Serialize)]
struct OptionsJson {
    elements: Vec<i32>,
    start_ns: Option<i64>,
    end_ns: Option<i64>,
    exclude_disappearing_messages: bool,
}

impl From<OptionsJson> for ArchiveOptions {
    fn from(options: OptionsJson) -> Self {
        Self {
            elements: options.elements,
            start_ns: options.start_ns,
            end_ns: options.end_ns,
            exclude_disappearing_messages: options.exclude_disappearing_messages,
        }
    }
}

impl From<ArchiveOptions> for OptionsJson {
    fn from(options: ArchiveOptions) -> Self {
        Self {
            elements: options.elements,
            start_ns: options.start_ns,
            end_ns: options.end_ns,
            exclude_disappearing_messages: options.exclude_disappearing_messages,
        }
    }
}

/// What an archive holds.
#[derive(Deserialize, Serialize)]
struct MetadataJson {
    elements: Vec<i32>,
    exported_at_ns: i64,
    start_ns: Option<i64>,
    end_ns: Option<i64>,
}

impl From<MetadataJson> for BackupMetadataSave {
    fn from(metadata: MetadataJson) -> Self {
        Self {
            elements: metadata.elements,
            exported_at_ns: metadata.exported_at_ns,
            start_ns: metadata.start_ns,
            end_ns: metadata.end_ns,
        }
    }
}

impl From<BackupMetadataSave> for MetadataJson {
    fn from(metadata: BackupMetadataSave) -> Self {
        Self {
            elements: metadata.elements,
            exported_at_ns: metadata.exported_at_ns,
            start_ns: metadata.start_ns,
            end_ns: metadata.end_ns,
        }
    }
}

/// What is to be done. Bytes of a node's come beside it.
#[derive(Deserialize)]
#[serde(tag = "call", rename_all = "snake_case")]
enum Call {
    Status,
    IdentityCursors { inbox_ids: Vec<String> },
    IngestIdentity,
    IngestVerdicts { request: String },
    InboxState { inbox_id: String },
    SignatureText { update: UpdateRequest, address: String, timestamp_ns: u64 },
    SignedUpdate { update: UpdateRequest, address: String, timestamp_ns: u64, signature: SignatureRequest },
    KeyPackageToUpload,
    KeyPackageUploaded { init_key: String },
    RotateKeyPackage,
    ReceiveWelcomes { fresh: BTreeSet<String>, give_up: bool },
    Groups,
    Group { id: String },
    ReceiveMessages { id: String, fresh: BTreeSet<String> },
    SyncGroups,
    OtherInstallations,
    CreateSyncGroup { others: Vec<String> },
    SendSyncMessage { id: String },
    SyncMessages { id: Option<String>, after: u64, limit: u32 },
    OutgoingGroups,
    SetConsents { records: Vec<(i32, String, i32)> },
    GetConsent { entity_type: i32, entity: String },
    HmacKeys { ids: Vec<String> },
    CycleHmac,
    HmacRoot,
    Outbox,
    FlushOutbox { id: String },
    HistoryAsked,
    SendSyncRequest { id: String, server_url: String, options: OptionsJson, automatic: bool },
    SyncRequests,
    SyncTasks,
    SyncTaskKey { message_id: String },
    TaskDone { message_id: String },
    TaskFailed { message_id: String, reason: String },
    TaskRetry { message_id: String, reason: String, next_attempt_at_ns: i64 },
    SendSyncReply { id: String, pin: String, url: String, metadata: MetadataJson, task: Option<String> },
    SendRefusal { id: String, pin: String, reason: String, detail: String, task: Option<String> },
    SyncReplies { since_ns: i64 },
    SyncReply { pin: Option<String> },
    Prepare { id: String, again: bool },
    Published { keys: Vec<i64> },
    PrepareWelcomes,
    WelcomesSent { keys: Vec<i64> },
}

/// A call's result: JSON, and bytes for the node.
type Answer = (Value, Vec<u8>);

fn unhex(text: &str) -> Result<Vec<u8>, XhError> {
    hex::decode(text).map_err(|_| XhError::new("ValueError", "an id is not a hexadecimal string"))
}

fn installation_ids(texts: &[String]) -> Result<Vec<[u8; 32]>, XhError> {
    let id = |text: &String| {
        unhex(text)?.try_into().map_err(|_| XhError::new("ValueError", "an installation id has 64 hexadecimal digits"))
    };
    texts.iter().map(id).collect()
}

fn wallet(address: &str) -> Result<Identifier, XhError> {
    Identifier::address(address).map_err(|rule| identity::Error::from(rule).into())
}

impl UpdateRequest {
    fn into_update(self) -> Result<Update, XhError> {
        Ok(match self {
            Self::Create { nonce } => Update::Create { nonce },
            Self::Add => Update::Add,
            Self::Revoke { installation_ids: ids } => Update::Revoke { installations: installation_ids(&ids)? },
        })
    }
}

impl SignatureRequest {
    fn into_signature(self) -> Result<WalletSignature, XhError> {
        Ok(match self {
            Self::Eoa { bytes } => WalletSignature::Personal(unhex(&bytes)?),
            Self::Contract { account_id, block_number, bytes } => {
                WalletSignature::Contract { account_id, block_number, signature: unhex(&bytes)? }
            }
        })
    }
}

fn run(installation: &Installation, call: Call, input: &[u8]) -> Result<Answer, XhError> {
    let none = Vec::new();
    Ok(match call {
        Call::Status => {
            let status = json!({
                "inbox_id": installation.inbox_id(),
                "installation_id": hex::encode(installation.installation_id()),
                "registered_at_ns": installation.registered_at_ns()?,
                "welcome_cursor": installation.welcome_cursor()?,
                "history_asked": installation.history_asked()?,
            });
            (status, none)
        }
        Call::IdentityCursors { inbox_ids } => (json!(installation.identity_cursors(&inbox_ids)?), none),
        Call::IngestIdentity => {
            let ingested = installation.ingest_identity(input)?;
            let request = ContractSignature::request(&ingested.unverified).encode_to_vec();
            let ingested = json!({
                "grown": ingested.grown,
                "refused": ingested.refused,
                "undecided": ingested.undecided,
            });
            (ingested, request)
        }
        Call::IngestVerdicts { request } => {
            installation.ingest_verdicts(&unhex(&request)?, input)?;
            (Value::Null, none)
        }
        Call::InboxState { inbox_id } => {
            (installation.inbox_state(&inbox_id)?.as_ref().map_or(Value::Null, state_json), none)
        }
        Call::SignatureText { update, address, timestamp_ns } => {
            (json!(installation.signature_text(&update.into_update()?, &wallet(&address)?, timestamp_ns)?), none)
        }
        Call::SignedUpdate { update, address, timestamp_ns, signature } => {
            let (update, signature) = (update.into_update()?, signature.into_signature()?);
            (Value::Null, installation.signed_update(&update, &wallet(&address)?, timestamp_ns, signature)?)
        }
        Call::KeyPackageToUpload => match installation.key_package_to_upload()? {
            Some(upload) => (json!(hex::encode(upload.init_key)), upload.bytes),
            None => (Value::Null, none),
        },
        Call::KeyPackageUploaded { init_key } => {
            installation.key_package_uploaded(&unhex(&init_key)?)?;
            (Value::Null, none)
        }
        Call::RotateKeyPackage => {
            installation.rotate_key_package()?;
            (Value::Null, none)
        }
        Call::ReceiveWelcomes { fresh, give_up } => {
            let welcomed = installation.receive_welcomes(input, &fresh, give_up)?;
            let joined: Vec<String> = welcomed.joined.iter().map(hex::encode).collect();
            let welcomed = json!({
                "count": welcomed.count,
                "more": welcomed.more,
                "cursor": welcomed.cursor,
                "joined": joined,
                "dropped": welcomed.dropped,
                "missing": welcomed.missing,
            });
            (welcomed, none)
        }
        Call::Groups => (installation.groups()?.iter().map(group_json).collect(), none),
        Call::Group { id } => {
            let id = unhex(&id)?;
            let Some(row) = installation.group(&id)? else { return Ok((Value::Null, none)) };
            let mut group = group_json(&row);
            // Of a group that could not even be joined there is nothing but its row.
            let details = match installation.group_details(&id) {
                Ok(details) => details,
                Err(mls::Error::NoSuchGroup) => return Ok((group, none)),
                Err(error) => return Err(error.into()),
            };
            let members = details.members.iter().map(|(inbox_id, id)| json!([inbox_id, hex::encode(id)]));
            if let Value::Object(fields) = &mut group {
                fields.insert("members".to_owned(), members.collect());
                fields.insert("epoch_authenticator".to_owned(), json!(hex::encode(details.epoch_authenticator)));
            }
            (group, none)
        }
        Call::ReceiveMessages { id, fresh } => {
            (received_json(&installation.receive_messages(&unhex(&id)?, input, &fresh)?), none)
        }
        Call::SyncGroups => {
            let groups = installation.sync_groups()?;
            (json!({ "primary": groups.primary.map(hex::encode), "wanted": groups.wanted }), none)
        }
        Call::OtherInstallations => {
            (installation.other_installations()?.iter().map(|id| json!(hex::encode(id))).collect(), none)
        }
        Call::CreateSyncGroup { others } => {
            (json!(hex::encode(installation.create_sync_group(&installation_ids(&others)?, input)?)), none)
        }
        Call::SendSyncMessage { id } => {
            (json!(hex::encode(installation.send_sync_message(&unhex(&id)?, input)?)), none)
        }
        Call::SyncMessages { id, after, limit } => {
            let id = id.map(|id| unhex(&id)).transpose()?;
            let mut content = Vec::new();
            let messages = installation.sync_messages(id.as_deref(), after, limit)?;
            let rows: Vec<Value> =
                messages.into_iter().map(|message| sync_message_row(message, &mut content)).collect();
            (json!(rows), content)
        }
        Call::OutgoingGroups => {
            (installation.outgoing_groups()?.iter().map(|id| json!(hex::encode(id))).collect(), none)
        }
        Call::SetConsents { records } => (json!(installation.set_consents(&records)?), none),
        Call::GetConsent { entity_type, entity } => (json!(installation.consent(entity_type, &entity)?), none),
        Call::HmacKeys { ids } => {
            let group_ids = ids.iter().map(|id| unhex(id)).collect::<Result<Vec<_>, _>>()?;
            let keys = installation.hmac_keys(&group_ids)?;
            let keys = keys.iter().map(|keys| -> Value {
                keys.iter().map(|(epoch, key)| json!([epoch, hex::encode(key.as_slice())])).collect()
            });
            (ids.into_iter().zip(keys).collect::<serde_json::Map<_, _>>().into(), none)
        }
        Call::CycleHmac => {
            installation.cycle_hmac()?;
            (Value::Null, none)
        }
        Call::HmacRoot => match installation.hmac_root_key()? {
            Some((key, cycled_at_ns)) => (json!(cycled_at_ns), key.to_vec()),
            None => (Value::Null, none),
        },
        Call::Outbox => {
            let waiting = installation.outbox()?;
            let waiting = json!({
                "consents": waiting.consents,
                "messages": waiting.messages,
                "hmac_due": waiting.hmac_due,
                "intents": waiting.intents,
                "failed": waiting.failed,
            });
            (waiting, none)
        }
        Call::FlushOutbox { id } => {
            let flushed = installation.flush_outbox(&unhex(&id)?)?;
            let flushed = json!({
                "preferences": flushed.consents,
                "messages": flushed.messages,
                "hmac": flushed.hmac,
            });
            (flushed, none)
        }
        Call::HistoryAsked => {
            installation.set_history_asked()?;
            (Value::Null, none)
        }
        Call::SendSyncRequest { id, server_url, options, automatic } => {
            let (pin, message_id) =
                installation.send_sync_request(&unhex(&id)?, &server_url, options.into(), automatic)?;
            (json!({ "pin": pin, "message_id": hex::encode(message_id) }), none)
        }
        Call::SyncRequests => (installation.sync_requests()?.iter().map(request_json).collect(), none),
        Call::SyncTasks => (installation.sync_tasks()?.into_iter().map(task_json).collect(), none),
        Call::SyncTaskKey { message_id } => {
            let reply = installation.sync_reply(&unhex(&message_id)?)?;
            let reply = reply.ok_or_else(|| XhError::new("ArchiveNotFound", "there is no such archive"))?;
            (Value::Null, reply.key)
        }
        Call::TaskDone { message_id } => {
            installation.task_done(&unhex(&message_id)?)?;
            (Value::Null, none)
        }
        Call::TaskFailed { message_id, reason } => {
            installation.task_failed(&unhex(&message_id)?, &reason)?;
            (Value::Null, none)
        }
        Call::TaskRetry { message_id, reason, next_attempt_at_ns } => {
            installation.task_retry(&unhex(&message_id)?, &reason, next_attempt_at_ns)?;
            (Value::Null, none)
        }
        Call::SendSyncReply { id, pin, url, metadata, task } => {
            let task = task.map(|task| unhex(&task)).transpose()?;
            let id = unhex(&id)?;
            let sent = installation.send_sync_reply(&id, &pin, &url, input, metadata.into(), task.as_deref())?;
            (json!(hex::encode(sent)), none)
        }
        Call::SendRefusal { id, pin, reason, detail, task } => {
            let task = task.map(|task| unhex(&task)).transpose()?;
            let sent = installation.send_refusal(&unhex(&id)?, &pin, &reason, &detail, task.as_deref())?;
            (json!(hex::encode(sent)), none)
        }
        Call::SyncReplies { since_ns } => {
            (installation.sync_replies(since_ns)?.into_iter().map(reply_json).collect(), none)
        }
        Call::SyncReply { pin } => {
            let replies = installation.sync_replies(i64::MIN)?;
            let reply = replies.into_iter().find(|reply| pin.as_ref().is_none_or(|pin| reply.pin == *pin));
            (reply.map_or(Value::Null, reply_json), none)
        }
        Call::Prepare { id, again } => outgoing(installation.prepare(&unhex(&id)?, again)?),
        Call::Published { keys } => {
            installation.published(&keys)?;
            (Value::Null, none)
        }
        Call::PrepareWelcomes => outgoing(installation.prepare_welcomes()?),
        Call::WelcomesSent { keys } => {
            installation.welcomes_sent(&keys)?;
            (Value::Null, none)
        }
    })
}

fn outgoing(outgoing: Option<Outgoing>) -> Answer {
    outgoing.map_or((Value::Null, Vec::new()), |outgoing| (json!(outgoing.keys), outgoing.request))
}

fn group_json(row: &GroupRow) -> Value {
    json!({
        "id": hex::encode(&row.id),
        "conversation_type": row.conversation_type,
        "state": row.state.name(),
        "reason": row.reason,
        "maybe_forked": row.maybe_forked(),
        "cursor": row.cursor,
        "epoch": row.epoch,
        "created_at_ns": row.created_at_ns,
        "creator_inbox_id": row.creator_inbox_id,
        "added_by_inbox_id": row.added_by_inbox_id,
        "undecryptable": row.undecryptable,
    })
}

fn received_json(received: &Received) -> Value {
    json!({
        "count": received.count,
        "more": received.more,
        "group": group_json(&received.group),
        "messages": received.messages.iter().map(hex::encode).collect::<Vec<_>>(),
        "sync_messages": received.sync_messages.iter().map(hex::encode).collect::<Vec<_>>(),
        "device_sync": news_json(&received.news),
        "commits": received.commits,
        "refused": received.refused,
        "missing": received.missing,
    })
}

fn news_json(news: &News) -> Value {
    let recorded = news.recorded.iter().map(|(group, id)| json!([hex::encode(group), hex::encode(id)]));
    json!({
        "tasks": news.tasks,
        "consents": news.consents,
        "hmac": news.hmac,
        "shared": recorded.collect::<Vec<_>>(),
        "refusals": news.refusals.iter().map(refusal_json).collect::<Vec<_>>(),
    })
}

fn refusal_json(refusal: &Refusal) -> Value {
    json!([refusal.pin, refusal.reason, refusal.detail, hex::encode(&refusal.installation_id)])
}

fn request_json(request: &Request) -> Value {
    let refused = request
        .refused
        .iter()
        .map(|refusal| json!([hex::encode(&refusal.installation_id), refusal.reason, refusal.detail]));
    json!({
        "pin": request.pin,
        "sent_at_ns": request.sent_at_ns,
        "server_url": request.server_url,
        "automatic": request.automatic,
        "imported": request.imported,
        "pending": request.pending,
        "refused": refused.collect::<Vec<_>>(),
    })
}

fn task_json(task: Task) -> Value {
    let mut json = json!({
        "message_id": hex::encode(&task.message_id),
        "group_id": hex::encode(&task.group_id),
        "sequence_id": task.sequence_id,
        "sent_at_ns": task.sent_at_ns,
        "sender_installation_id": hex::encode(&task.installation_id),
        "attempts": task.attempts,
        "next_attempt_at_ns": task.next_attempt_at_ns,
    });
    let subject = match task.subject {
        Subject::Request(request) => json!({
            "kind": "answer",
            "pin": request.pin,
            "server_url": request.server_url,
            "options": request.options.map(OptionsJson::from),
        }),
        Subject::Reply(reply) => json!({
            "kind": "import",
            "pin": reply.pin,
            "url": reply.url,
            "metadata": reply.metadata.map(MetadataJson::from),
        }),
    };
    if let (Value::Object(fields), Value::Object(subject)) = (&mut json, subject) {
        fields.extend(subject);
    }
    json
}

/// What opens the archive is not here.
fn reply_json(reply: Reply) -> Value {
    json!({
        "message_id": hex::encode(&reply.message_id),
        "sender_installation_id": hex::encode(&reply.installation_id),
        "sent_at_ns": reply.sent_at_ns,
        "pin": reply.pin,
        "url": reply.url,
        "metadata": reply.metadata.map(MetadataJson::from),
    })
}

/// The order of Python's `SyncGroupMessage`; the content lies in the blob, and here is its length.
fn sync_message_row(message: SyncMessage, content: &mut Vec<u8>) -> Value {
    content.extend_from_slice(&message.content);
    json!([
        hex::encode(message.id),
        hex::encode(message.group_id),
        message.sequence_id,
        message.sent_at_ns,
        message.sender_inbox_id,
        hex::encode(message.sender_installation_id),
        message.content.len(),
    ])
}

fn member_json(member: &Member, record: &MemberRecord) -> Value {
    let kind = match member {
        Member::Address(_) => "ethereum",
        Member::Installation(_) => "installation",
        Member::Passkey(_) => "passkey",
    };
    json!([kind, member.to_string(), record.client_timestamp_ns, record.added_by.as_ref().map(ToString::to_string)])
}

fn state_json(state: &AssociationState) -> Value {
    json!({
        "inbox_id": state.inbox_id(),
        "recovery_identifier": state.recovery().to_string(),
        "sequence_id": state.last_sequence_id(),
        "members": state.members().map(|(member, record)| member_json(member, record)).collect::<Vec<_>>(),
    })
}

/// Opens the installation in a store, or makes its keys if `inbox_id` is not empty and there is none.
///
/// # Safety
/// `store` is open, `inbox_id` valid for its length, and `out` for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xh_installation_open(
    store: *const XhStore,
    inbox_id: *const u8,
    inbox_id_length: usize,
    out: *mut *mut XhInstallation,
) -> *mut XhError {
    guard(|| {
        // SAFETY: promised by the caller.
        let (store, inbox_id) = unsafe { ((*store).get()?, bytes(inbox_id, inbox_id_length)) };
        let inbox_id = std::str::from_utf8(inbox_id).map_err(|_| XhError::new("ValueError", "not an inbox id"))?;
        let installation = Installation::open(store, Some(inbox_id).filter(|id| !id.is_empty()))?;
        // SAFETY: promised by the caller.
        unsafe { *out = Box::into_raw(Box::new(XhInstallation(Mutex::new(Some(Arc::new(installation)))))) };
        Ok(())
    })
}

/// Does what `request` (JSON) says, with what a node gave as `input`. `json` gets the result, `output` what is to be sent.
///
/// # Safety
/// `installation` is open, the input pointers are valid for their lengths, and the out-pointers for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xh_installation_call(
    installation: *const XhInstallation,
    request: *const u8,
    request_length: usize,
    input: *const u8,
    input_length: usize,
    json: *mut XhBuffer,
    output: *mut XhBuffer,
) -> *mut XhError {
    guard(|| {
        // SAFETY: promised by the caller.
        let (installation, request, input) =
            unsafe { ((*installation).get()?, bytes(request, request_length), bytes(input, input_length)) };
        let call = serde_json::from_slice(request).map_err(|error| XhError::new("ValueError", error.to_string()))?;
        let (answer, bytes) = run(&installation, call, input)?;
        // SAFETY: promised by the caller.
        unsafe {
            *json = answer.to_string().into_bytes().into();
            *output = bytes.into();
        }
        Ok(())
    })
}

/// Closes an installation, when calls that still use it have ended, and lets others open it. Later calls fail.
///
/// # Safety
/// `installation` came from [`xh_installation_open`] and was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xh_installation_close(installation: *const XhInstallation) {
    // SAFETY: promised by the caller.
    let installation = unsafe { &*installation };
    let closed = catch_unwind(AssertUnwindSafe(|| {
        drop(installation.0.lock().unwrap_or_else(PoisonError::into_inner).take());
    }));
    debug_assert!(closed.is_ok(), "dropping an installation does not panic");
}

/// Frees an installation, closing it first.
///
/// # Safety
/// `installation` came from [`xh_installation_open`] and is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xh_installation_free(installation: *mut XhInstallation) {
    // SAFETY: promised by the caller.
    drop(unsafe { Box::from_raw(installation) });
}

/// What is asked about identities without an installation.
#[derive(Deserialize)]
#[serde(tag = "call", rename_all = "snake_case")]
enum IdentityCall {
    /// The id of the inbox that an address creates with a nonce.
    InboxId { address: String, nonce: u64 },
    /// The state after a log, given as a `GetIdentityUpdatesResponse` with one response. Signatures of smart contract
    /// wallets, which nobody here can verify, are taken as valid if `trust_contracts`.
    VerifyLog { trust_contracts: bool },
}

fn run_identity(call: IdentityCall, input: &[u8]) -> Result<Value, XhError> {
    Ok(match call {
        IdentityCall::InboxId { address, nonce } => {
            json!(wallet(&address)?.inbox_id(nonce).map_err(identity::Error::from)?)
        }
        IdentityCall::VerifyLog { trust_contracts } => {
            let answer = crate::wire::proto::identity::api::v1::GetIdentityUpdatesResponse::decode(input)
                .map_err(|_| identity::Error::Malformed)?;
            let log = answer.responses.into_iter().next().ok_or(identity::Error::EmptyLog)?;
            let mut verdicts = identity::ContractVerdicts::new();
            let folded = match AssociationState::fold(&log.inbox_id, &log.updates, &verdicts) {
                Err(identity::Error::Unverified(signatures)) if trust_contracts => {
                    for signature in &signatures {
                        verdicts.insert(signature, true);
                    }
                    AssociationState::fold(&log.inbox_id, &log.updates, &verdicts)
                }
                folded => folded,
            };
            state_json(&folded?)
        }
    })
}

/// Answers a question about identities: `request` is JSON, `input` what a node gave, `json` the answer.
///
/// # Safety
/// The input pointers are valid for their lengths, and `json` for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xh_identity_call(
    request: *const u8,
    request_length: usize,
    input: *const u8,
    input_length: usize,
    json: *mut XhBuffer,
) -> *mut XhError {
    guard(|| {
        // SAFETY: promised by the caller.
        let (request, input) = unsafe { (bytes(request, request_length), bytes(input, input_length)) };
        let call = serde_json::from_slice(request).map_err(|error| XhError::new("ValueError", error.to_string()))?;
        let answer = run_identity(call, input)?;
        // SAFETY: promised by the caller.
        unsafe { *json = answer.to_string().into_bytes().into() };
        Ok(())
    })
}
