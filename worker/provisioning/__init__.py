"""Making what a worker needs where it is missing, and telling what is there. Nothing is ever deleted or replaced."""

from functools import partial

import structlog

from worker.provisioning.concurrently import concurrently
from worker.provisioning.cosmos import check_store, provision_cosmos
from worker.provisioning.findings import Finding, ProvisioningError, State
from worker.provisioning.leases import check_leases, provision_claims, provision_leases
from worker.provisioning.servicebus import provision_servicebus
from worker.settings import Settings

__all__ = ["Finding", "ProvisioningError", "State", "check_leases", "check_store", "provision"]

log = structlog.get_logger()


async def provision(settings: Settings, *, check_only: bool = False) -> tuple[Finding, ...]:
    """Make the database, the containers and the queues, unless `check_only`, and tell of each what was found.

    Idempotent, and safe for several workers at once. Raises ProvisioningError, which holds all findings, when
    something that a worker needs is missing or wrong afterwards.
    """
    steps = (provision_cosmos, provision_leases, provision_claims, provision_servicebus)
    found = await concurrently(partial(step, settings, make=not check_only) for step in steps)
    findings = tuple(finding for findings in found for finding in findings)
    for finding in findings:
        if finding.state is State.MADE:
            log.info("provisioning.made", resource=finding.resource)
        elif finding.state is State.ADVICE:
            log.warning("provisioning.advice", resource=finding.resource, note=finding.note)
    if any(finding.stops for finding in findings):
        raise ProvisioningError(findings)
    return findings
