//! Configuration: one documented struct a function, read once from the environment.

use serde::de::DeserializeOwned;

/// Every variable of Outflow begins so.
pub const PREFIX: &str = "OUTFLOW_";

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("environment variable {0} is missing: set it (`cargo xtask stack env` prints the local values)")]
    Missing(String),
    #[error("environment variables beginning with {PREFIX} do not fit: {0}")]
    Invalid(String),
}

/// Reads `OUTFLOW_<FIELD>` for every field of `T`.
///
/// # Errors
/// Names the variable that is missing, or says which value does not fit its type.
pub fn from_env<T: DeserializeOwned>() -> Result<T, ConfigError> {
    from_vars(std::env::vars())
}

/// As [`from_env`], from given pairs: tests configure without touching the process.
///
/// # Errors
/// As [`from_env`].
pub fn from_vars<T: DeserializeOwned>(
    vars: impl IntoIterator<Item = (String, String)>,
) -> Result<T, ConfigError> {
    envy::prefixed(PREFIX).from_iter(vars).map_err(|error| match error {
        envy::Error::MissingValue(field) => ConfigError::Missing(format!("{PREFIX}{}", field.to_uppercase())),
        envy::Error::Custom(message) => ConfigError::Invalid(message),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::{ExposeSecret, SecretString};
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    struct Example {
        database_url: SecretString,
        #[serde(default = "hundred")]
        batch_rows: usize,
    }

    fn hundred() -> usize {
        100
    }

    fn load(pairs: &[(&str, &str)]) -> Result<Example, ConfigError> {
        from_vars(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    #[test]
    fn a_missing_variable_is_named_in_full() {
        let error = load(&[]).unwrap_err();

        assert!(error.to_string().contains("OUTFLOW_DATABASE_URL"), "{error}");
    }

    #[test]
    fn numbers_are_parsed_and_defaults_kept() {
        let given = load(&[("OUTFLOW_DATABASE_URL", "mysql://x"), ("OUTFLOW_BATCH_ROWS", "7")])
            .expect("both are given");
        let default = load(&[("OUTFLOW_DATABASE_URL", "mysql://x")]).expect("one is given");

        assert_eq!((given.batch_rows, default.batch_rows), (7, 100));
        assert_eq!(given.database_url.expose_secret(), "mysql://x");
    }

    #[test]
    fn a_secret_never_shows_in_debug_output() {
        let config =
            load(&[("OUTFLOW_DATABASE_URL", "mysql://user:hunter2@host/shop")]).expect("it is given");

        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
