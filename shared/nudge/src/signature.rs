//! AWS's signature, version 4, with the credentials that Lambda gives each function.

use crate::error::{Lost, NudgeError};
use aws_credential_types::Credentials;
use aws_sigv4::{
    http_request::{SignableBody, SignableRequest, SigningSettings, sign},
    sign::v4,
};
use http::Request;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use std::{error::Error, fmt, time::SystemTime};

/// What Lambda puts into every function's environment. The credentials are its role's, and outlive the process.
#[derive(Debug, Deserialize)]
struct Environment {
    /// `AWS_REGION`.
    region: String,
    /// `AWS_ACCESS_KEY_ID`.
    access_key_id: String,
    /// `AWS_SECRET_ACCESS_KEY`.
    secret_access_key: SecretString,
    /// `AWS_SESSION_TOKEN`, of temporary credentials.
    session_token: Option<SecretString>,
}

pub(crate) struct Signer {
    region: String,
    credentials: Credentials,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({})", self.region)
    }
}

impl Signer {
    /// From the variables of [`Environment`].
    pub(crate) fn from_vars(vars: impl IntoIterator<Item = (String, String)>) -> Result<Self, NudgeError> {
        let environment: Environment =
            envy::prefixed("AWS_").from_iter(vars).map_err(NudgeError::Credentials)?;
        let Environment { region, access_key_id, secret_access_key, session_token } = environment;
        let session_token = session_token.map(|token| token.expose_secret().to_owned());
        let secret = secret_access_key.expose_secret();
        let credentials = Credentials::new(access_key_id, secret, session_token, None, "environment");
        Ok(Self { region, credentials })
    }

    /// Adds the signature's headers. What is in the request by now is signed.
    pub(crate) fn sign<B>(&self, request: &mut Request<B>, body: &[u8], at: SystemTime) -> Result<(), Lost> {
        let failed = |error: Box<dyn Error + Send + Sync>| Lost::Sign(error);
        let identity = self.credentials.clone().into();
        let parameters = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name("lambda")
            .time(at)
            .settings(SigningSettings::default())
            .build()
            .map_err(|error| failed(error.into()))?;
        let uri = request.uri().to_string();
        let headers =
            request.headers().iter().filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
        let signable =
            SignableRequest::new(request.method().as_str(), uri, headers, SignableBody::Bytes(body))
                .map_err(|error| failed(error.into()))?;
        let signed = sign(signable, &parameters.into()).map_err(|error| failed(error.into()))?;
        let (instructions, _) = signed.into_parts();
        instructions.apply_to_request_http1x(request);
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    /// The keys of AWS's own examples.
    pub(crate) fn signer() -> Signer {
        Signer::from_vars(
            [
                ("AWS_REGION", "eu-west-1"),
                ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"),
                ("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"),
                ("AWS_SESSION_TOKEN", "session-token"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned())),
        )
        .expect("nothing is missing")
    }

    #[test]
    fn the_signature_is_the_one_that_botocore_makes() {
        let mut request = Request::post(
            "https://lambda.eu-west-1.amazonaws.com/2015-03-31/functions/shop-OutboxRelay-1A2B/invocations",
        )
        .header("content-type", "application/json")
        .header("x-amz-invocation-type", "Event")
        .body(())
        .expect("the test's request is well formed");
        // 2026-11-23 07:11:32 UTC
        let at = UNIX_EPOCH + Duration::from_secs(1_795_417_892);

        signer().sign(&mut request, b"{}", at).expect("it can be signed");

        let header = |name: &str| request.headers()[name].to_str().expect("headers are text").to_owned();
        assert_eq!(header("x-amz-date"), "20261123T071132Z");
        assert_eq!(header("x-amz-security-token"), "session-token");
        assert_eq!(
            header("authorization"),
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20261123/eu-west-1/lambda/aws4_request, \
             SignedHeaders=content-type;host;x-amz-date;x-amz-invocation-type;x-amz-security-token, \
             Signature=43eedc87bd2d1a0d7fb3460a75bca0605cdffe11abb2a3283540a80ef19dfdc8"
        );
    }

    #[test]
    fn missing_credentials_are_told_and_given_ones_never_show() {
        let error = Signer::from_vars([("AWS_REGION".to_owned(), "eu-west-1".to_owned())])
            .expect_err("there are no keys");

        assert!(error.to_string().contains("AWS_ACCESS_KEY_ID"), "{error}");
        assert_eq!(format!("{:?}", signer()), "Signer(eu-west-1)");
    }
}
