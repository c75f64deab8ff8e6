//! What a failed delivery means for the relay: whose fault it is, and what it is called.
//!
//! Must not: blame a record for what happened to its batch. That a record was alone is for the caller to know.

use outflow_outbox::FailureKind;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

const OWN: FailureKind = FailureKind::Record { permanent: true };
/// Somebody has to make the topic, or give the right to it; until then only events of this topic wait.
const OWN_FOR_NOW: FailureKind = FailureKind::Record { permanent: false };

/// Whose fault this code tells of, and the cause by which failures are grouped.
///
/// Whatever isn't listed is the broker's: to blame a record needs evidence, since a parked event burns attempts.
pub(crate) fn sort(code: Code) -> (FailureKind, &'static str) {
    use FailureKind::{Backpressure, Fenced, Retriable};
    match code {
        Code::MessageSizeTooLarge => (OWN, "message_too_large"),
        Code::MessageBatchTooLarge => (OWN, "larger_than_a_segment"),
        Code::InvalidTopic => (OWN, "invalid_topic"),
        Code::InvalidRecord | Code::InvalidMessageSize | Code::InvalidArgument => (OWN, "invalid_record"),
        Code::InvalidTimestamp => (OWN, "invalid_timestamp"),
        Code::PolicyViolation => (OWN_FOR_NOW, "policy_violation"),
        Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownTopicId => {
            (OWN_FOR_NOW, "unknown_topic")
        }
        Code::UnknownPartition => (OWN_FOR_NOW, "unknown_partition"),
        Code::TopicAuthorizationFailed => (OWN_FOR_NOW, "topic_authorization"),
        Code::QueueFull => (Backpressure, "queue_full"),
        Code::ThrottlingQuotaExceeded => (Backpressure, "throttled"),
        Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch => (Fenced, "producer_fenced"),
        Code::MessageTimedOut
        | Code::OperationTimedOut
        | Code::RequestTimedOut
        | Code::TimedOutQueue
        | Code::PurgeQueue
        | Code::PurgeInflight => (Retriable, "timed_out"),
        Code::BrokerTransportFailure
        | Code::AllBrokersDown
        | Code::Resolve
        | Code::BrokerNotAvailable
        | Code::BrokerDestroy
        | Code::DestroyBroker
        | Code::NetworkException => (Retriable, "broker_unreachable"),
        Code::NotLeaderForPartition
        | Code::LeaderNotAvailable
        | Code::ReplicaNotAvailable
        | Code::FencedLeaderEpoch
        | Code::UnknownLeaderEpoch => (Retriable, "no_leader"),
        Code::NotEnoughReplicas | Code::NotEnoughReplicasAfterAppend => (Retriable, "too_few_replicas"),
        Code::KafkaStorageError | Code::LogDirNotFound => (Retriable, "broker_storage"),
        Code::ClusterAuthorizationFailed | Code::TransactionalIdAuthorizationFailed => {
            (Retriable, "cluster_authorization")
        }
        Code::Authentication | Code::SaslAuthenticationFailed | Code::SSL => (Retriable, "authentication"),
        // Not another relay: this client has lost count of its batches, and is replaced by a new one.
        Code::Fatal
        | Code::OutOfOrderSequenceNumber
        | Code::DuplicateSequenceNumber
        | Code::UnknownProducerId
        | Code::GaplessGuarantee
        | Code::Inconsistent => (Retriable, "client_lost_count"),
        Code::InvalidDifferentRecord => (Retriable, "refused_with_another"),
        _ => (Retriable, "unconfirmed"),
    }
}

/// As [`sort`], for what the client said without sending anything.
pub(crate) fn sort_error(error: &KafkaError) -> (FailureKind, &'static str) {
    match error {
        // A topic's name with a NUL in it.
        KafkaError::Nul(_) => (OWN, "invalid_topic"),
        other => other.rdkafka_error_code().map_or((FailureKind::Retriable, "unconfirmed"), sort),
    }
}

/// A batch is refused as a whole: with this code a record may have been refused for its neighbours.
pub(crate) fn may_be_its_neighbours(code: Code) -> bool {
    matches!(
        code,
        Code::MessageSizeTooLarge
            | Code::MessageBatchTooLarge
            | Code::InvalidRecord
            | Code::InvalidDifferentRecord
            | Code::InvalidMessageSize
            | Code::InvalidTimestamp
            | Code::PolicyViolation
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_that_a_broker_answers_to_a_record_has_its_kind_and_its_cause() {
        let table = [
            (Code::MessageSizeTooLarge, OWN, "message_too_large"),
            (Code::MessageBatchTooLarge, OWN, "larger_than_a_segment"),
            (Code::InvalidTopic, OWN, "invalid_topic"),
            (Code::InvalidRecord, OWN, "invalid_record"),
            (Code::InvalidMessageSize, OWN, "invalid_record"),
            (Code::InvalidArgument, OWN, "invalid_record"),
            (Code::InvalidTimestamp, OWN, "invalid_timestamp"),
            (Code::PolicyViolation, OWN_FOR_NOW, "policy_violation"),
            (Code::UnknownTopic, OWN_FOR_NOW, "unknown_topic"),
            (Code::UnknownTopicOrPartition, OWN_FOR_NOW, "unknown_topic"),
            (Code::UnknownPartition, OWN_FOR_NOW, "unknown_partition"),
            (Code::TopicAuthorizationFailed, OWN_FOR_NOW, "topic_authorization"),
            (Code::QueueFull, FailureKind::Backpressure, "queue_full"),
            (Code::ThrottlingQuotaExceeded, FailureKind::Backpressure, "throttled"),
            (Code::Fenced, FailureKind::Fenced, "producer_fenced"),
            (Code::ProducerFenced, FailureKind::Fenced, "producer_fenced"),
            (Code::InvalidProducerEpoch, FailureKind::Fenced, "producer_fenced"),
            (Code::MessageTimedOut, FailureKind::Retriable, "timed_out"),
            (Code::RequestTimedOut, FailureKind::Retriable, "timed_out"),
            (Code::PurgeQueue, FailureKind::Retriable, "timed_out"),
            (Code::PurgeInflight, FailureKind::Retriable, "timed_out"),
            (Code::BrokerTransportFailure, FailureKind::Retriable, "broker_unreachable"),
            (Code::AllBrokersDown, FailureKind::Retriable, "broker_unreachable"),
            (Code::NotLeaderForPartition, FailureKind::Retriable, "no_leader"),
            (Code::LeaderNotAvailable, FailureKind::Retriable, "no_leader"),
            (Code::NotEnoughReplicas, FailureKind::Retriable, "too_few_replicas"),
            (Code::NotEnoughReplicasAfterAppend, FailureKind::Retriable, "too_few_replicas"),
            (Code::KafkaStorageError, FailureKind::Retriable, "broker_storage"),
            (Code::ClusterAuthorizationFailed, FailureKind::Retriable, "cluster_authorization"),
            (Code::SaslAuthenticationFailed, FailureKind::Retriable, "authentication"),
            (Code::Fatal, FailureKind::Retriable, "client_lost_count"),
            (Code::OutOfOrderSequenceNumber, FailureKind::Retriable, "client_lost_count"),
            (Code::InvalidDifferentRecord, FailureKind::Retriable, "refused_with_another"),
            (Code::Unknown, FailureKind::Retriable, "unconfirmed"),
            (Code::InvalidMessage, FailureKind::Retriable, "unconfirmed"),
        ];
        for (code, kind, cause) in table {
            assert_eq!(sort(code), (kind, cause), "{code}");
        }
    }

    #[test]
    fn a_cause_can_be_grouped_by_and_a_record_is_only_blamed_for_what_a_record_can_be_at_fault_for() {
        // Kafka's own codes, and librdkafka's.
        for number in (-200..-100).chain(-1..130) {
            let Ok(code) = rdkafka::types::RDKafkaRespErr::try_from(number) else { continue };
            let code = Code::from(code);
            let (kind, cause) = sort(code);
            assert!((1..=64).contains(&cause.len()), "{cause}");
            assert!(cause.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_')), "{cause}");
            if may_be_its_neighbours(code) && code != Code::InvalidDifferentRecord {
                assert!(matches!(kind, FailureKind::Record { .. }), "{code}");
            }
        }
    }

    #[test]
    fn a_name_that_no_topic_can_have_is_the_records_own_fault() {
        let nul = std::ffi::CString::new("a\0b").expect_err("it holds a NUL");
        assert_eq!(sort_error(&KafkaError::Nul(nul)), (OWN, "invalid_topic"));
        assert_eq!(sort_error(&KafkaError::Canceled), (FailureKind::Retriable, "unconfirmed"));
    }
}
