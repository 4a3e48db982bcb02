//! Requests to the daemon, and their outcomes.

use std::net::{IpAddr, SocketAddr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::choices::{Protocol, TcpFlag};
use super::options::Options;
use super::patch::Patch;
use super::service::{Backend, Service};
use super::state::AdminState;
use super::text::{ENDPOINT, deserialize_endpoint};

/// A change to a service or a backend: absent options stay, and null takes a change back.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(bound = "T: Options")]
pub struct OptionsPatch<T> {
    /// The new administrative state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin: Option<AdminState>,
    /// Of a service: changes to options of its backends, which take effect together with the others.
    #[serde(default, rename = "backend", skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<BackendOptions>,
    /// The options' new values.
    #[serde(flatten)]
    pub options: Patch<T>,
}

/// New values of a backend's options.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BackendOptions {
    /// Which one.
    #[serde(deserialize_with = "deserialize_endpoint")]
    pub address: SocketAddr,
    /// The options' new values.
    #[serde(flatten)]
    pub options: Patch<Backend>,
}

/// A change to a service.
pub type ServicePatch = OptionsPatch<Service>;

/// A change to a backend.
pub type BackendPatch = OptionsPatch<Backend>;

impl<T> Default for OptionsPatch<T> {
    fn default() -> Self {
        Self { admin: None, backends: Vec::new(), options: Patch::default() }
    }
}

impl<T: Options> OptionsPatch<T> {
    /// To another administrative state.
    pub fn admin(admin: AdminState) -> Self {
        Self { admin: Some(admin), ..Self::default() }
    }

    /// To another value of an option.
    pub fn of(key: &str, value: impl Into<Value>) -> Self {
        Self { options: Patch::of(key, value), ..Self::default() }
    }

    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.admin.is_none() && self.backends.is_empty() && self.options.is_empty()
    }
}

/// Every option that can change, each of its own type or null, and `admin`.
impl<T: Options + JsonSchema> JsonSchema for OptionsPatch<T> {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("{}Patch", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut properties = changeable::<T>(generator);
        if T::OPTIONS.iter().any(|row| row.key == "backend") {
            let mut of_backend = changeable::<Backend>(generator);
            let address = json!({ "type": "string", "description": "Which backend.", "pattern": ENDPOINT });
            of_backend.insert("address".into(), address);
            let backends = json!({
                "type": "array",
                "description": "Backends of the service whose options change together with those of the service.",
                "items": {
                    "type": "object",
                    "properties": of_backend,
                    "required": ["address"],
                    "additionalProperties": false,
                },
            });
            properties.insert("backend".into(), backends);
        }
        let admin = json!([generator.subschema_for::<AdminState>(), { "type": "null" }]);
        let described = json!({ "description": "The new administrative state.", "anyOf": admin });
        properties.insert("admin".into(), described);
        json_schema!({
            "type": "object",
            "description": "Options and their new values; null goes back to what the config file says.",
            "properties": properties,
            "additionalProperties": false,
            "minProperties": 1,
        })
    }
}

/// The options that can change at runtime, by their keys.
fn changeable<T: Options + JsonSchema>(generator: &mut SchemaGenerator) -> Map<String, Value> {
    let of = T::json_schema(generator);
    let written = |key| of.get("properties").and_then(|all| all.get(key)).cloned();
    let mut properties = Map::new();
    for row in T::OPTIONS.iter().filter(|row| row.fixed.is_none()) {
        // A table may be given by some of its keys.
        let value = match written(row.key) {
            Some(schema) if is_table(&schema, generator) => json!({ "type": "object" }),
            Some(Value::Object(mut schema)) => {
                schema.remove("default");
                schema.into()
            }
            _ => continue,
        };
        let none = row.none.map(|_| json!({ "const": "none" }));
        let any: Vec<Value> = [value, json!({ "type": "null" })].into_iter().chain(none).collect();
        properties.insert(row.key.into(), json!({ "description": row.sentence, "anyOf": any }));
    }
    properties
}

/// Whether a schema is that of a table, or of an optional table.
fn is_table(schema: &Value, generator: &SchemaGenerator) -> bool {
    let any = schema.get("anyOf").and_then(Value::as_array).into_iter().flatten();
    let mut names = any.chain([schema]).filter_map(|schema| schema.get("$ref")?.as_str()?.rsplit('/').next());
    names.any(|name| {
        generator.definitions().get(name).is_some_and(|it| it.get("type") == Some(&json!("object")))
    })
}

/// A change to the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(example = serde_json::json!({ "admin": "draining" }))]
pub struct AdminPatch {
    /// The new administrative state.
    pub admin: AdminState,
}

/// The outcome of a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Outcome {
    /// One line for the operator.
    pub message: String,
    /// Whether anything changed.
    pub changed: bool,
    /// What is wrong with forwarding after the change; absent if nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// Which tracked flows to list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FlowQuery {
    /// Those of this service.
    #[schemars(example = &"web")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Those of this backend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<SocketAddr>,
    /// Those of this client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<IpAddr>,
    /// How many at most: never more than 10,000 per page. Default 1,000.
    #[serde(default = "default_flows")]
    pub limit: u32,
    /// Where to continue: `next` of the previous page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

impl FlowQuery {
    /// The default number of listed flows.
    pub const DEFAULT_LIMIT: u32 = 1_000;
    /// How many flows a page has at most.
    pub const MOST: u32 = 10_000;
}

const fn default_flows() -> u32 {
    FlowQuery::DEFAULT_LIMIT
}

/// A packet whose way through the datapath is to be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(example = serde_json::json!({ "client": "192.0.2.2:1234", "vip": "203.0.113.10:80" }))]
pub struct ExplainRequest {
    /// Its sender: ADDRESS:PORT, IPv6 in brackets.
    #[serde(deserialize_with = "deserialize_endpoint")]
    #[schemars(with = "String", regex(pattern = ENDPOINT))]
    pub client: SocketAddr,
    /// Whom it is sent to, in the same form.
    #[serde(deserialize_with = "deserialize_endpoint")]
    #[schemars(with = "String", regex(pattern = ENDPOINT))]
    pub vip: SocketAddr,
    /// Its protocol. Default: tcp.
    #[serde(default)]
    pub protocol: Protocol,
    /// The TCP flags that are set; none for UDP. Default: syn.
    #[serde(default = "syn")]
    pub flags: Vec<TcpFlag>,
    /// The interface that it comes in by. Default: the one that leads to the client, if the program is attached there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// How many flows to tell of, 1 to 100,000: of as many clients, whose addresses and ports follow that of `client`. With more
    /// than one, `spread` in the answer says which backends they go to.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 100_000))]
    pub clients: u32,
}

/// Which packets to follow: those that are all that it asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(example = serde_json::json!({ "service": "web", "count": 10, "seconds": 5 }))]
pub struct TraceRequest {
    /// Packets from or to clients in this network, or with this address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"192.0.2.0/24")]
    pub client: Option<String>,
    /// Packets to and from the VIP of this service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Packets to and from this backend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<SocketAddr>,
    /// Packets that are not forwarded for this reason, by its name in `counters`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"source_denied")]
    pub reason: Option<String>,
    /// How many packets at most, 1 to 100,000. Default: 100.
    #[serde(default = "hundred")]
    #[schemars(range(min = 1, max = 100_000))]
    pub count: u32,
    /// For how many seconds at most, 1 to 600. Default: 10.
    #[serde(default = "ten")]
    #[schemars(range(min = 1, max = 600))]
    pub seconds: u32,
    /// Whether frames are shown with their payload, up to 2,048 bytes. Default: headers alone.
    #[serde(default)]
    pub payload: bool,
}

impl TraceRequest {
    /// How many packets one request may follow.
    pub const MOST_PACKETS: u32 = 100_000;
    /// For how many seconds.
    pub const LONGEST: u32 = 600;
}

const fn hundred() -> u32 {
    100
}

const fn ten() -> u32 {
    10
}

impl ExplainRequest {
    /// How many flows one request may ask about.
    pub const MOST_CLIENTS: u32 = 100_000;
}

const fn one() -> u32 {
    1
}

fn syn() -> Vec<TcpFlag> {
    vec![TcpFlag::Syn]
}
