//! What instances take over from each other, without gateways around it.

use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use wardgate::acme::fleet::Fleet;
use wardgate::acme::journal::Journal;
use wardgate::acme::state::{Record, Target};
use wardgate::acme::storage::{
    AuthorityId, CertId, CertLock, Meta, Pair, Place, Secret, Storage, StoreError,
};
use wardgate::config;

use crate::support::{PASSWORD, Redis};

/// A storage of its own with the fleet that meets at a Redis.
struct Instance {
    storage: Storage,
    _directory: TempDir,
}

impl Instance {
    fn new(redis: &Redis) -> Self {
        let yaml =
            format!("sites: {{ a.test: {{ upstream: \"http://b\" }} }}\nstorage: {}", redis.url());
        let loaded = config::from_text("gateway.yaml", &yaml, "".as_ref()).unwrap();
        let fleet = Fleet::new(&loaded.config.fleet.unwrap()).unwrap();
        let directory = TempDir::new().unwrap();
        let storage = Storage::open(directory.path()).unwrap().with_fleet(Some(Arc::new(fleet)));
        Self { storage, _directory: directory }
    }

    /// Does `work` where it may block.
    async fn on<T: Send + 'static>(&self, work: impl FnOnce(&Storage) -> T + Send + 'static) -> T {
        let storage = self.storage.clone();
        tokio::task::spawn_blocking(move || work(&storage)).await.unwrap()
    }

    /// Saves a new certificate for `names`; its revision.
    async fn save(&self, names: &'static [&'static str]) -> u64 {
        self.on(|storage| {
            let lock = lock(storage);
            let saved = storage.save(Place::Live, &lock, &pair(names)).unwrap();
            saved.meta.unwrap().revision
        })
        .await
    }

    async fn catch_up(&self) {
        self.on(|storage| storage.catch_up(&lock(storage), &target(&["a.test"])).unwrap()).await;
    }

    /// As an instance does from time to time.
    async fn compare(&self) {
        let wanted = [(id(), target(&["a.test"]))];
        let compare = move |storage: &Storage| {
            storage.compare(&wanted, &[authority()], Duration::from_secs(10)).unwrap();
        };
        self.on(compare).await;
    }

    /// The certificate in service.
    async fn served(&self) -> Option<Vec<u8>> {
        let found = self.on(|storage| storage.load(Place::Live, &id()).unwrap()).await;
        Some(found.generation?.certificate.key.cert[0].to_vec())
    }
}

fn id() -> CertId {
    CertId::new("a.test")
}

fn authority() -> AuthorityId {
    AuthorityId::new("https://ca.test/dir")
}

fn target(names: &[&str]) -> Target {
    let names = names.iter().map(ToString::to_string).collect();
    Target::new(names, "https://ca.test/dir", None)
}

fn pair(names: &[&str]) -> Pair {
    let target = target(names);
    let made = rcgen::generate_simple_self_signed(target.names.clone()).unwrap();
    let meta = Meta { target, ..Meta::default() };
    Pair { key_pem: Secret(made.signing_key.serialize_pem()), chain_pem: made.cert.pem(), meta }
}

fn lock(storage: &Storage) -> CertLock {
    storage.lock(&id()).unwrap().expect("nobody else is at it")
}

fn journal(created: i64) -> Journal {
    Journal {
        order_url: format!("https://ca.test/order/{created}"),
        key_pem: "key".into(),
        names: vec!["a.test".into()],
        directory: "https://ca.test/dir".into(),
        profile: None,
        replaces: None,
        created,
    }
}

#[tokio::test]
async fn a_lock_has_one_holder_in_a_fleet() {
    let redis = Redis::start().await;
    let (one, other) = (Instance::new(&redis), Instance::new(&redis));
    let held = one.on(lock).await;
    assert!(!held.is_alone(&one.storage));
    assert!(other.on(|storage| storage.lock(&id()).unwrap()).await.is_none());
    let account = one.on(|storage| storage.lock_account(&authority()).unwrap()).await;
    assert!(other.on(|storage| storage.lock_account(&authority()).unwrap()).await.is_none());
    drop((held, account));
    drop(other.on(lock).await);
    assert!(other.on(|storage| storage.lock_account(&authority()).unwrap()).await.is_some());
}

#[tokio::test]
async fn what_one_has_kept_the_other_takes_over_with_the_lock() {
    let redis = Redis::start().await;
    let (one, other) = (Instance::new(&redis), Instance::new(&redis));
    assert_eq!((one.save(&["a.test"]).await, one.save(&["a.test"]).await), (1, 2));
    let record = Record { fails: 3, ..Record::new(target(&["a.test"]), 7) };
    let kept = record.clone();
    one.on(move |storage| {
        let lock = lock(storage);
        storage.keep_record(&lock, &kept).unwrap();
        storage.keep_order(&lock, &journal(9)).unwrap();
        let lock = storage.lock_account(&authority()).unwrap().unwrap();
        storage.keep_account(&lock, &serde_json::json!({ "credentials": "c" })).unwrap();
    })
    .await;
    other.catch_up().await;
    assert_eq!(other.served().await, one.served().await);
    other
        .on(move |storage| {
            assert_eq!(storage.record(&id()).unwrap(), Some(record));
            let lock = lock(storage);
            assert_eq!(storage.order(&lock).unwrap(), Some(journal(9)));
            storage.drop_order(&lock).unwrap();
            drop(storage.lock_account(&authority()).unwrap());
            let account: serde_json::Value = storage.account(&authority()).unwrap().unwrap();
            assert_eq!(account["credentials"], "c");
        })
        .await;
    assert_eq!(other.save(&["a.test"]).await, 3);
    one.compare().await;
    assert_eq!(other.served().await, one.served().await);
    let third = Instance::new(&redis);
    third.catch_up().await;
    let order = third.on(|storage| storage.order(&lock(storage)).unwrap()).await;
    assert_eq!(order, None, "it was dropped for all");
}

#[tokio::test]
async fn those_that_were_cut_off_agree_when_redis_is_back() {
    let mut redis = Redis::start().await;
    let (one, other) = (Instance::new(&redis), Instance::new(&redis));
    one.save(&["a.test"]).await;
    other.compare().await;
    redis.kill().await;
    assert!(one.on(lock).await.is_alone(&one.storage), "nobody can be asked");
    assert_eq!((one.save(&["a.test"]).await, other.save(&["a.test"]).await), (2, 2));
    assert_eq!(other.save(&["a.test"]).await, 3);
    for instance in [&one, &other] {
        assert!(!instance.storage.fleet().unwrap().is_reachable());
    }
    redis.again().await;
    // One that has failed is left alone for a moment.
    while !other.storage.fleet().unwrap().is_reachable() {
        tokio::time::sleep(Duration::from_millis(100)).await;
        other.compare().await;
    }
    let newest = other.served().await;
    while one.served().await != newest {
        tokio::time::sleep(Duration::from_millis(100)).await;
        one.compare().await;
    }
    other.compare().await;
    assert_eq!(other.served().await, newest);
    assert_eq!(one.save(&["a.test"]).await, 4);
}

#[tokio::test]
async fn what_was_issued_for_another_configuration_is_left_to_those_that_have_it() {
    let redis = Redis::start().await;
    let (one, other) = (Instance::new(&redis), Instance::new(&redis));
    one.save(&["a.test"]).await;
    other.compare().await;
    let before = other.served().await;
    one.save(&["a.test", "www.a.test"]).await;
    for _ in 0..2 {
        other.catch_up().await;
        other.compare().await;
        assert_eq!(other.served().await, before);
    }
    // What it saves itself counts on from there, and is as foreign to the first.
    assert_eq!(other.save(&["a.test"]).await, 3);
    let wanted = [(id(), target(&["a.test", "www.a.test"]))];
    let present = one.served().await;
    one.on(move |storage| {
        storage.compare(&wanted, &[authority()], Duration::from_secs(10)).unwrap();
    })
    .await;
    assert_eq!(one.served().await, present);
}

#[tokio::test]
async fn what_redis_garbles_is_passed_over() {
    let redis = Redis::start().await;
    let one = Instance::new(&redis);
    one.save(&["a.test"]).await;
    let before = one.served().await;
    for garbled in [
        "nonsense",
        "{\"key_pem\":\"\",\"chain_pem\":\"\",\"meta\":{\"names\":[\"a.test\"],\"directory\":\"https://ca.test/dir\"}}",
    ] {
        let said = redis
            .say(&format!(
                "AUTH gateway {PASSWORD}\r\nHSET wardgate:versions a.test '9 9 ff'\r\n\
                 SET wardgate:pair:a.test '{garbled}'\r\nSET wardgate:record:a.test x\r\n\
                 SET wardgate:order:a.test x\r\nSET wardgate:account:ca.test+dir x\r\n"
            ))
            .await;
        assert!(!said.contains("-ERR") && !said.contains("-NOPERM"), "{said}");
        one.compare().await;
        one.catch_up().await;
        assert_eq!(one.served().await, before);
    }
    assert_eq!(one.save(&["a.test"]).await, 10, "the next one is good again");
    let other = Instance::new(&redis);
    other.compare().await;
    assert_eq!(other.served().await, one.served().await);
}

#[tokio::test]
async fn a_challenge_that_the_fleet_was_not_told_of_is_an_error_and_the_newest_comes_last() {
    let mut redis = Redis::start().await;
    let (one, other) = (Instance::new(&redis), Instance::new(&redis));
    let keep = |key: &'static str| {
        move |storage: &Storage| storage.keep_challenge(&lock(storage), key, &key)
    };
    let found = |instance: &Instance| {
        let storage = instance.storage.clone();
        tokio::task::spawn_blocking(move || storage.challenges::<String>().unwrap())
    };
    one.on(keep("old")).await.unwrap();
    assert_eq!(found(&other).await.unwrap(), ["old"]);
    redis.kill().await;
    let told = one.on(keep("new")).await;
    assert!(matches!(told, Err(StoreError::Fleet(_))), "{told:?}");
    assert_eq!(found(&one).await.unwrap().len(), 2, "this instance has it");
    redis.again().await;
    // One that has failed is left alone for a moment.
    while one.on(keep("new")).await.is_err() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    while found(&other).await.unwrap() != ["new"] {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(found(&one).await.unwrap(), ["old", "new"]);
    // What an earlier order has left goes, wherever it was left.
    other.on(keep("newest")).await.unwrap();
    let drop_others = |storage: &Storage| storage.drop_other_challenges(&lock(storage), ["newest"]);
    other.on(drop_others).await.unwrap();
    assert_eq!(found(&other).await.unwrap(), ["newest"]);
}

impl Redis {
    /// Sends commands as they are typed; what it answers until the connection's end.
    async fn say(&self, commands: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(self.address()).await.unwrap();
        stream.write_all(commands.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).await.unwrap();
        said
    }
}
