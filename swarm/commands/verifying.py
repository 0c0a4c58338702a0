"""The verb that evaluates again what was attested."""

from __future__ import annotations

from swarm.commands import Session, folded, print_json
from swarm.commands.reading import find
from swarm.errors import SwarmError
from swarm.verify import Verified
from swarm.verify import verify as examined
from swarm.views.documents import Document


def verify(session: Session) -> None:
    session.refuse_agents("examinations")
    paths, given = session.paths, session.arguments
    board = folded(paths)
    name = find(board, given.experiment).experiment
    found = examined(paths, board, name, given.device, session.environment)
    if given.json:
        print_json(_document(name, found))
    if found.finding.failed:
        raise SwarmError(f"{name} could not be examined: {found.finding.failed}", "try it again")
    if found.finding.refused:
        raise SwarmError(f"{name} does not hold: {found.finding.refused}", f"swarm show {name}")
    if not given.json:
        print(_text(name, found))


def _document(name: str, found: Verified) -> Document:
    finding = found.finding
    return {
        "experiment": name,
        "trial": found.trial.id,
        "device": found.device,
        "verified": not (finding.refused or finding.failed),
        "reason": finding.refused or finding.failed,
        "val_bpb": found.trial.val_bpb,
        "rows": finding.rows,
        "attested_bpb": finding.attested_bpb,
        "examined_bpb": finding.val_bpb,
        "heldout_bpb": finding.heldout_bpb,
        "heldout_rows": finding.heldout_rows,
        "seconds": round(finding.seconds, 3),
    }


def _text(name: str, found: Verified) -> str:
    trial, finding = found.trial, found.finding
    return (
        f"{name} holds: the weights of {trial.id} were evaluated again on {found.device},"
        f" {finding.seconds:.1f} s\n"
        f"val_bpb   {trial.val_bpb:.6f} attested\n"
        f"compared  {finding.rows} rows: {finding.attested_bpb:.6f} attested,"
        f" {finding.val_bpb:.6f} examined\n"
        f"held-out  {finding.heldout_bpb:.6f}, {finding.heldout_rows} rows"
    )
