//! Wardgate: a reverse proxy and TLS gateway in one binary, configured by one YAML file.
//!
//! This page is the map: the words, the modules, and the way of a request and of a certificate
//! through them. `docs/` is for those who run the gateway, this for those who change it.
//!
//! # Words
//!
//! | word | means | type |
//! |---|---|---|
//! | listener | sockets that are accepted on, with one protocol | [`config::listener::Listener`] |
//! | site | a host's configuration: its names, certificate and routes | [`config::site::Site`] |
//! | route | conditions, and what is done with a request that meets them | [`config::route::Route`] |
//! | upstream pool | servers that do the same job | [`upstream::Pool`] |
//! | endpoint | one resolved address of one server | [`upstream::Endpoint`] |
//! | attempt | one try to have a request answered by one endpoint | [`upstream::Attempt`] |
//! | exchange | a request and its answer, from the head to the access line | [`proxy::exchange::Exchange`] |
//! | filter | a rule that lets a request pass, refuses it or changes its fields | [`filter::Instance`] |
//! | failure | why the gateway itself answers: one row of one table | [`proxy::failure::Failure`] |
//! | generation | the running form of one configuration; a request pins one | [`proxy::generation::Generation`] |
//! | canonical path | the one spelling that routes compare and backends get | [`net::path::Canonical`] |
//! | head gate | the strict reader before the engine | [`listen::HeadGate`] |
//! | engine | what relays the bytes: pingora, behind hooks that only delegate | [`proxy::engine::Engine`] |
//! | drain | finishing what is in flight when the process, or a listener, ends | [`app`] |
//! | reload | reading the configuration again, and putting it in force whole or not at all | [`admin::control`] |
//! | upgrade | starting another process with the sockets of this one, which then drains | [`admin::upgrade`] |
//!
//! *Downstream* is the client's side, *upstream* the origin's.
//!
//! # Modules
//!
//! Each uses those below it, never one above or a cycle; `tests/architecture.rs` enforces it.
//!
//! ```text
//!                cli ───────────────► demo
//!                 │
//!                app ───────────────► service; acme, on tls
//!        ┌────────┴────────┐
//!      admin            listen ──────► task
//!        └────────┬────────┘
//!               proxy ───────────────► welcome
//!        ┌────────┼────────┐
//!      route    filter  upstream
//!        │        │        │
//!        │        │       tls
//!        │        │        │
//!        │        │    telemetry
//!        └────────┬────────┘
//!              config
//!                 │
//!                net
//! ```
//!
//! [`net`] is the vocabulary, [`config`] turns text into types that nobody checks again, and
//! [`telemetry`] tells the operator. [`route`] finds what handles a request, [`upstream`] where it
//! goes, [`filter`] whether it may and with which fields, [`tls`] who may be trusted, and none of
//! them knows what a request is answered; [`proxy`] joins them for one request, [`listen`] owns the
//! connections, [`app`] the process, and [`service`] is the way to whoever supervises that. [`acme`]
//! knows when a certificate is due and how it comes about. Pingora is named in `proxy`,
//! `upstream::peer` and `listen`'s connections only, rustls in `tls`.
//!
//! # One request
//!
//! 1. [`listen::connection::accept`] takes a connection, counts it in the [`Census`], reads its
//!    [PROXY header](net::proxy_protocol) where the listener asks for one, and on https has [`tls::accept`] shake hands: the [`CertStore`] finds the certificate for the client's name, and
//!    the [`Generation`] which [`Policy`] of its site says what is asked of the client.
//! 2. [`listen::http1`] buffers a head and lets the [`HeadGate`] judge it; [`listen::http2`] takes
//!    streams. Either hands one request at a time to [`Engine::serve`].
//! 3. The engine's [`hooks`](proxy::hooks) ask what to do: the [`Generation`] is pinned, the
//!    [`Client`] identified, the [path](net::path) made canonical, the [`Router`] asked for site and
//!    route. The route's [`Stack`] of filters has its say. What cannot go on becomes a [`Failure`].
//! 4. A [`Pool`] gives a [`Place`] and picks an [`Endpoint`]; the [`Attempt`] dials, or takes a
//!    connection that was kept.
//! 5. [`proxy::forward`] makes the head the backend gets, and later the one the client gets:
//!    hop-by-hop fields end here, forwarded ones begin. [`proxy::response_check`] refuses answers
//!    that can be split in two ways.
//! 6. However it ends, the [`Exchange`] is dropped, and that writes its [`AccessRecord`].
//!
//! # One reload
//!
//! 1. Somebody asks the [`Control`]: a signal, a changed file, the [admin API](admin), a service manager.
//!    One task of [`app`] answers, one request after the other.
//! 2. It reads and checks the file and builds all that it needs beside what is in force: sockets,
//!    certificates, [`Pool`]s with the endpoints of those before, [`Chains`] with their buckets. Whatever
//!    fails here is the [`Outcome`], and nothing has changed.
//! 3. What was built is swapped in, which cannot fail: the [`CertStore`]'s table, each socket's
//!    [`Door`], the [`Generation`]. A listener that is gone drains.
//! 4. The old generation is freed with the last request that pins it.
//!
//! # One upgrade
//!
//! 1. Somebody asks the [`Control`]. The same task of [`app`] starts the program with handles of all
//!    sockets ([`service::Successor`]), and waits; the process in whose place it starts is the new one's
//!    [`service::Manager`]'s business, as systemd is.
//! 2. The new process starts as any other, takes the [`Inherited`] sockets, says that it is ready, and
//!    accepts. A second later the old one accepts no more and looks after nothing but what is in flight.
//!
//! # One certificate
//!
//! 1. [`app`] asks for every site's certificate before anything is accepted: [`tls::pem`] loads an
//!    operator's files, the [`LocalCa`] issues the rest into `storage:`, or [`OnDemand`] for `"*"`.
//! 2. They become [`Entry`]s of a [`Table`], and the [`CertStore`] replaces its table whole, so that
//!    the next handshake serves the new one.
//! 3. A task of [`app`] looks again every hour: what is due is issued anew, and the [`Tickets`] get a
//!    new key.
//! 4. For what an authority issues, the [`Renewer`] follows the [`plan`](acme::schedule::plan): under the
//!    certificate's lock an [`Issuer`] orders, publishing [`Challenges`] that the running listeners
//!    answer, [`Storage`] saves, and only then the table gets the new one.
//!
//! [`AccessRecord`]: telemetry::AccessRecord
//! [`Attempt`]: upstream::Attempt
//! [`Census`]: listen::connection::Census
//! [`CertStore`]: tls::CertStore
//! [`Chains`]: filter::Chains
//! [`Challenges`]: tls::Challenges
//! [`Client`]: proxy::client::Client
//! [`Control`]: admin::Control
//! [`Door`]: listen::connection::Door
//! [`Endpoint`]: upstream::Endpoint
//! [`Engine::serve`]: proxy::engine::Engine::serve
//! [`Entry`]: tls::Entry
//! [`Exchange`]: proxy::exchange::Exchange
//! [`Failure`]: proxy::failure::Failure
//! [`Generation`]: proxy::generation::Generation
//! [`HeadGate`]: listen::HeadGate
//! [`Inherited`]: listen::Inherited
//! [`Issuer`]: acme::order::Issuer
//! [`LocalCa`]: tls::LocalCa
//! [`OnDemand`]: tls::OnDemand
//! [`Outcome`]: admin::Outcome
//! [`Place`]: upstream::Place
//! [`Policy`]: tls::Policy
//! [`Pool`]: upstream::Pool
//! [`Renewer`]: acme::renewer::Renewer
//! [`Router`]: route::Router
//! [`Stack`]: filter::Stack
//! [`Storage`]: acme::storage::Storage
//! [`Table`]: tls::Table
//! [`Tickets`]: tls::Tickets

pub mod acme;
pub mod admin;
pub mod app;
pub mod cli;
pub mod config;
pub mod demo;
pub mod filter;
pub mod listen;
pub mod net;
pub mod proxy;
pub mod route;
pub mod service;
pub mod task;
pub mod telemetry;
pub mod tls;
pub mod upstream;
pub mod welcome;
