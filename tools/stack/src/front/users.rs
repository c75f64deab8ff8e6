//! Who may come in: the users file, and the three ways in which a request names its user.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use axum::http::{HeaderMap, header};
use base64::Engine as _;
use serde::Deserialize;

use super::error::{Exception, code};

/// One entry of the users file, a JSON array of these.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// The name it logs in with.
    pub name: String,
    /// Its password. An empty one is refused.
    pub password: String,
    /// Reads only, and may change settings for its own queries (ClickHouse's `readonly = 2`).
    #[serde(default)]
    pub readonly: bool,
    /// Settings that each of its queries starts with, such as `session_timezone`.
    #[serde(default)]
    pub settings: BTreeMap<String, String>,
}

impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("User")
            .field("name", &self.name)
            .field("readonly", &self.readonly)
            .finish_non_exhaustive()
    }
}

/// Why a users file is refused.
#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    /// It can't be read.
    #[error("cannot read the users file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// It isn't a JSON array of users.
    #[error("the users file {} is not a JSON array of {{name, password, readonly, settings}}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where it goes wrong.
        #[source]
        source: serde_json::Error,
    },
    /// A name comes twice.
    #[error("user {0:?} is there twice: keep one")]
    Twice(String),
    /// A user without a name or password.
    #[error("user {0:?} has an empty name or password: give both")]
    Empty(String),
}

/// All users, by name.
#[derive(Debug)]
pub struct Users(BTreeMap<String, User>);

impl Users {
    /// Reads the users file.
    ///
    /// # Errors
    /// When it can't be read, isn't of the right shape, or names a user twice or without a password.
    pub fn read(path: &Path) -> Result<Self, UsersError> {
        let text =
            std::fs::read(path).map_err(|source| UsersError::Read { path: path.to_owned(), source })?;
        let list: Vec<User> = serde_json::from_slice(&text)
            .map_err(|source| UsersError::Parse { path: path.to_owned(), source })?;
        let mut users = BTreeMap::new();
        for user in list {
            if user.name.is_empty() || user.password.is_empty() {
                return Err(UsersError::Empty(user.name));
            }
            if let Some(user) = users.insert(user.name.clone(), user) {
                return Err(UsersError::Twice(user.name));
            }
        }
        Ok(Self(users))
    }

    /// The user of this name.
    pub(crate) fn find(&self, name: &str) -> Option<&User> {
        self.0.get(name)
    }

    /// The user that a request speaks for.
    pub(crate) fn authenticate(&self, given: Option<&Credentials>) -> Result<&User, Exception> {
        let Some(given) = given else {
            let message = "default: Authentication failed: name a user by X-ClickHouse-User and X-ClickHouse-Key, \
                           by basic authentication, or by user and password in the URL";
            return Err(Exception::new(code::REQUIRED_PASSWORD, "REQUIRED_PASSWORD", message));
        };
        let known = self.0.get(&given.name);
        // An unknown name is compared too, so that it takes as long as a wrong password.
        let password = known.map_or("", |user| &user.password);
        match known {
            Some(user) if same(password.as_bytes(), given.password.as_bytes()) => Ok(user),
            _ => {
                let message = format!(
                    "{}: Authentication failed: password is incorrect, or there is no user with such name",
                    given.name
                );
                Err(Exception::new(code::AUTHENTICATION_FAILED, "AUTHENTICATION_FAILED", message))
            }
        }
    }
}

/// Compares without telling by its duration where the first difference is.
fn same(left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len() && left.iter().zip(right).fold(0, |differs, (l, r)| differs | (l ^ r)) == 0
}

/// A name and a password, not yet checked.
pub(crate) struct Credentials {
    pub(crate) name: String,
    pub(crate) password: String,
}

impl Credentials {
    /// By header, by basic authentication, or by URL; mixing ways is refused as ClickHouse does.
    pub(crate) fn of(headers: &HeaderMap, url: Option<(String, String)>) -> Result<Option<Self>, Exception> {
        let header = |name: &str| {
            headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        let (user, key) = (header("x-clickhouse-user"), header("x-clickhouse-key"));
        let by_header = (user.is_some() || key.is_some())
            .then(|| (user.unwrap_or_else(|| "default".to_owned()), key.unwrap_or_default()));
        let by_basic = headers.get(header::AUTHORIZATION).map(|value| basic(value.as_bytes())).transpose()?;
        let mut ways = [by_header, by_basic, url].into_iter().flatten();
        let found = ways.next();
        if ways.next().is_some() {
            return Err(Exception::new(
                code::AUTHENTICATION_FAILED,
                "AUTHENTICATION_FAILED",
                "Invalid authentication: give the user in one way only (X-ClickHouse headers, Authorization, or URL)",
            ));
        }
        Ok(found.map(|(name, password)| Self { name, password }))
    }
}

fn basic(value: &[u8]) -> Result<(String, String), Exception> {
    let decoded = value
        .split_at_checked(6)
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"basic "))
        .and_then(|(_, encoded)| base64::engine::general_purpose::STANDARD.decode(encoded.trim_ascii()).ok())
        .and_then(|decoded| String::from_utf8(decoded).ok());
    let Some(decoded) = decoded else {
        let message =
            "Invalid authentication: the Authorization header must be Basic with a base64 name:password";
        return Err(Exception::new(code::AUTHENTICATION_FAILED, "AUTHENTICATION_FAILED", message));
    };
    let (name, password) = decoded.split_once(':').unwrap_or((&decoded, ""));
    Ok((name.to_owned(), password.to_owned()))
}
