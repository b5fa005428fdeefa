//! The values that labels take. A room adds its reasons here.

/// A label whose values are all known.
pub trait Label: Copy + 'static {
    /// Every value, in the order of [`index`](Self::index).
    const ALL: &'static [Self];
    /// The value as text.
    fn name(&self) -> &'static str;
    /// Its place in [`ALL`](Self::ALL).
    fn index(&self) -> usize;
}

macro_rules! label {
    ($(#[doc = $about:literal])+ $label:ident { $($(#[doc = $doc:literal])+ $value:ident = $name:literal,)+ }) => {
        $(#[doc = $about])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $label {
            $($(#[doc = $doc])+ $value,)+
        }

        impl Label for $label {
            const ALL: &'static [Self] = &[$(Self::$value),+];
            fn name(&self) -> &'static str {
                match self {
                    $(Self::$value => $name,)+
                }
            }
            fn index(&self) -> usize {
                *self as usize
            }
        }

        impl std::fmt::Display for $label {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

label! {
    /// What was asked for.
    Endpoint {
        /// POST /openrtb2/bid
        Bid = "bid",
        /// POST /v1/rank
        Rank = "rank",
        /// POST /v1/events
        Events = "events",
        /// Win, billing and loss notices.
        Notice = "notice",
        /// Click redirects.
        Click = "click",
        /// Health, metrics and settings.
        Health = "health",
        /// Plans, items and creatives.
        Catalog = "catalog",
        /// Anything else.
        Other = "other",
    }
}

impl Endpoint {
    /// The endpoint that answers under this path.
    #[must_use]
    pub fn of_path(path: &str) -> Self {
        match path {
            "/openrtb2/bid" => Self::Bid,
            "/v1/rank" => Self::Rank,
            "/v1/events" => Self::Events,
            "/livez" | "/readyz" | "/metrics" | "/config" => Self::Health,
            _ if path.starts_with("/openrtb2/") => Self::Bid,
            _ if path.starts_with("/notice/click") => Self::Click,
            _ if path.starts_with("/notice/") => Self::Notice,
            _ if ["/v1/plans", "/v1/items", "/v1/creatives", "/v1/balances"].iter().any(|p| path.starts_with(p)) => {
                Self::Catalog
            }
            _ => Self::Other,
        }
    }
}

label! {
    /// Class of an answer.
    StatusClass {
        /// 200 to 203 and 205 to 299.
        Success = "2xx",
        /// 204: no bid, or nothing to say.
        NoContent = "204",
        /// Redirects.
        Redirect = "3xx",
        /// Faults of the client.
        Client = "4xx",
        /// 503: refused for load, or not ready.
        Unavailable = "503",
        /// 504: not done by the deadline that the request named.
        Late = "504",
        /// Other faults of the server.
        Server = "5xx",
    }
}

impl StatusClass {
    /// The class of `status`.
    #[must_use]
    pub fn of(status: u16) -> Self {
        match status {
            204 => Self::NoContent,
            503 => Self::Unavailable,
            504 => Self::Late,
            ..300 => Self::Success,
            300..400 => Self::Redirect,
            400..500 => Self::Client,
            _ => Self::Server,
        }
    }
}

label! {
    /// A listening port.
    Port {
        /// Exchanges and feeds.
        Public = "public",
        /// People and probes.
        Admin = "admin",
    }
}

label! {
    /// Why the server ended a connection.
    ConnectionEnd {
        /// Idle or sending headers longest when the cap was reached.
        Evicted = "evicted",
        /// Refused: the cap is reached and every connection is at work.
        Refused = "refused",
        /// Refused: the cap of its address is reached and every connection of it is at work.
        RefusedAddress = "refused_address",
        /// Headers took too long.
        HeaderTimeout = "header_timeout",
        /// Silent between two requests.
        KeepAliveTimeout = "keep_alive_timeout",
        /// The client read no byte of its answer.
        WriteTimeout = "write_timeout",
        /// Not HTTP.
        BadRequest = "bad_request",
        /// The client broke it off.
        ClientGone = "client_gone",
        /// Still open at the hard limit of the drain.
        Drained = "drained",
    }
}

label! {
    /// A stage of a request, in order.
    Stage {
        /// Reading and checking the request.
        Parse = "parse",
        /// Loading the history.
        Load = "load",
        /// Waiting for the device to encode.
        EncodeWait = "encode_wait",
        /// Encoding the history.
        Encode = "encode",
        /// Retrieving candidates.
        Retrieve = "retrieve",
        /// Waiting for the device to score.
        ScoreWait = "score_wait",
        /// Scoring candidates.
        Score = "score",
        /// Pricing.
        Price = "price",
        /// Choosing creatives and holding money, with the wait for a plan's pool where it was dry.
        Choose = "choose",
        /// Writing the reply.
        Record = "record",
        /// All of it.
        Total = "total",
    }
}

label! {
    /// Why a bid request got no bid; the reasons of single plans are [`crate::auction::NoBidReason`].
    NoBid {
        /// The request left too little time.
        TooLittleTime = "too_little_time",
        /// The deadline passed on the way.
        Deadline = "deadline",
        /// No time was left for it beside the requests before it: refused at once.
        Overloaded = "overloaded",
        /// A queue was full.
        QueueFull = "queue_full",
        /// Warming up, or leaving.
        NotReady = "not_ready",
        /// The ledger takes no holds.
        LedgerPoisoned = "ledger_poisoned",
        /// A part of the server failed.
        Failed = "failed",
        /// No imp offers a form that is served (audio only, for example).
        UnsupportedImp = "unsupported_imp",
        /// The slot must be secure and our own URLs are not.
        NotSecure = "not_secure",
        /// No rate for a currency.
        Currency = "currency",
        /// Categories are blocked or allowed by codes of a taxonomy that items do not carry.
        CategoryTaxonomy = "category_taxonomy",
        /// No plan passes the filters: schedule, targeting, blocks.
        NothingEligible = "nothing_eligible",
        /// No candidate's value reaches a price.
        LowValue = "low_value",
        /// No candidate's bid reaches the floor.
        BelowFloor = "below_floor",
        /// The ledger did not hold the money: taken by other bids at that moment, or not made ready in time.
        NotHeld = "not_held",
        /// The budget of every plan that would have bid is spent or held.
        BudgetExhausted = "budget_exhausted",
    }
}

label! {
    /// A step down the ladder.
    DegradeStep {
        /// A cached state without the newest events.
        StaleState = "stale_state",
        /// A shorter history.
        ShortHistory = "short_history",
        /// No answer.
        NoBid = "no_bid",
    }
}

label! {
    /// A cache.
    Cache {
        /// User states (K/V blocks).
        State = "state",
        /// User states that the GPU has no room for, in host memory.
        HostState = "host_state",
        /// Histories as stored.
        History = "history",
        /// Histories as the model reads them.
        Window = "window",
        /// Eligibility bitmaps.
        Filter = "filter",
    }
}

label! {
    /// What a lookup found.
    CacheOutcome {
        /// All.
        Hit = "hit",
        /// A part, to be completed.
        Partial = "partial",
        /// Nothing.
        Miss = "miss",
    }
}

label! {
    /// A bounded queue.
    Queue {
        /// Encodes and scores waiting for the device.
        Device = "device",
        /// Background refreshes.
        Refresh = "refresh",
        /// Searches.
        Retrieve = "retrieve",
    }
}

label! {
    /// A notice of an exchange.
    Notice {
        /// nurl
        Win = "win",
        /// burl
        Billing = "billing",
        /// lurl
        Loss = "loss",
        /// The pixel of a shown ad.
        Impression = "impression",
        /// Click redirect.
        Click = "click",
    }
}

label! {
    /// What became of a notice.
    NoticeOutcome {
        /// Money settled, or the click counted.
        Settled = "settled",
        /// The hold released.
        Released = "released",
        /// Seen before: nothing changed.
        Duplicate = "duplicate",
        /// Settled after the hold had expired: charged and flagged.
        Late = "late",
        /// Settled at the price of one impression, though the exchange says that it was for another number: flagged.
        Multiplied = "multiplied",
        /// Good, but not the kind that changes anything.
        Noted = "noted",
        /// A bad signature or an unknown key.
        BadSignature = "bad_signature",
        /// Outside the window.
        OutOfWindow = "out_of_window",
        /// A price that cannot be (over the bid, negative, no number).
        BadPrice = "bad_price",
        /// Malformed.
        Malformed = "malformed",
        /// No such bid.
        Unknown = "unknown",
        /// The ledger could not write.
        Failed = "failed",
    }
}

label! {
    /// What became of an event.
    EventOutcome {
        /// Stored.
        Accepted = "accepted",
        /// Its id was seen before.
        Duplicate = "duplicate",
        /// Refused.
        Rejected = "rejected",
    }
}

label! {
    /// Records of the catalogue.
    Records {
        /// Plans.
        Plans = "plans",
        /// Items.
        Items = "items",
        /// Creatives.
        Creatives = "creatives",
    }
}

label! {
    /// How the load of a model ended.
    ModelLoad {
        /// It serves.
        Served = "served",
        /// It was refused; the one before keeps serving.
        Refused = "refused",
    }
}

label! {
    /// A part of the server that keeps something on disk.
    Room {
        /// Money.
        Ledger = "ledger",
        /// Histories and the event log.
        Users = "users",
        /// Plans, items, creatives, and what was learned.
        Catalogue = "catalogue",
    }
}

label! {
    /// Where a plan's money stands.
    Held {
        /// Budget granted.
        Granted = "granted",
        /// Spent.
        Spent = "spent",
        /// Held by bids.
        Held = "held",
        /// Free.
        Free = "free",
    }
}

label! {
    /// A limit that bound.
    Bound {
        /// A body over its size.
        BodyBytes = "body_bytes",
        /// All bodies together over their memory.
        BodiesMemory = "bodies_memory",
        /// A compressed body over its size once decompressed.
        InflatedBytes = "inflated_bytes",
        /// A request over its time.
        RequestTime = "request_time",
        /// A line of an import over its size.
        ImportLine = "import_line",
        /// A fact for plans' figures while too many waited for the control tick: figures are short of it, money is not.
        ReportFacts = "report_facts",
    }
}

/// Labels that other rooms keep: their names and order are theirs.
impl Label for crate::auction::NoBidReason {
    const ALL: &'static [Self] = Self::ALL;
    fn name(&self) -> &'static str {
        (*self).as_str()
    }
    fn index(&self) -> usize {
        (*self).index()
    }
}

impl Label for crate::http::openrtb::Leniency {
    const ALL: &'static [Self] = &Self::ALL;
    fn name(&self) -> &'static str {
        self.label()
    }
    fn index(&self) -> usize {
        *self as usize
    }
}

impl From<crate::http::notices::NoticeKind> for Notice {
    fn from(kind: crate::http::notices::NoticeKind) -> Self {
        use crate::http::notices::NoticeKind;
        match kind {
            NoticeKind::Win => Self::Win,
            NoticeKind::Billing => Self::Billing,
            NoticeKind::Loss => Self::Loss,
            NoticeKind::Impression => Self::Impression,
            NoticeKind::Click => Self::Click,
        }
    }
}
