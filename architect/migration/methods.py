"""The calls of the contract: their paths and messages, as tables. A test compares them with the .proto."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from google.protobuf.message import Message

from architect.migration.v1 import migration_pb2 as v1

PACKAGE: Final = "architect.migration.v1"
CERTIFICATES: Final = f"{PACKAGE}.Certificates"
MIGRATIONS: Final = f"{PACKAGE}.Migrations"
LEADER: Final = "architect-leader"
"""The trailing metadata with which another replica says who leads."""
AUDIENCE: Final = "architect-migration"
"""What a service account token has to be for, to be believed by Certify."""


@dataclass(frozen=True, slots=True)
class Method[Q: Message, A: Message]:
    """A call: one request, and one answer or a stream of them."""

    service: str
    name: str
    request: type[Q]
    answer: type[A]
    streams: bool = False

    @property
    def path(self) -> str:
        """As HTTP/2 names it."""
        return f"/{self.service}/{self.name}"


CERTIFY: Final = Method(CERTIFICATES, "Certify", v1.CertifyRequest, v1.CertifyResponse)
LEAVE: Final = Method(MIGRATIONS, "Leave", v1.LeaveRequest, v1.LeaveResponse)
FOLLOW: Final = Method(MIGRATIONS, "Follow", v1.FollowRequest, v1.FollowEvent, streams=True)
OFFER: Final = Method(MIGRATIONS, "Offer", v1.OfferRequest, v1.OfferResponse)
WITHDRAW: Final = Method(MIGRATIONS, "Withdraw", v1.WithdrawRequest, v1.WithdrawResponse)
CLAIM: Final = Method(MIGRATIONS, "Claim", v1.ClaimRequest, v1.ClaimEvent, streams=True)
PROGRESS: Final = Method(MIGRATIONS, "Progress", v1.ProgressRequest, v1.ProgressResponse)
TAKE: Final = Method(MIGRATIONS, "Take", v1.TakeRequest, v1.TakeResponse)
CONFIRM: Final = Method(MIGRATIONS, "Confirm", v1.ConfirmRequest, v1.ConfirmResponse)
ABANDON: Final = Method(MIGRATIONS, "Abandon", v1.AbandonRequest, v1.AbandonResponse)
