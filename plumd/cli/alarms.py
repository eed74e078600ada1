"""plum alarm ..."""

from __future__ import annotations

import click

from plumd.cli.screen import Column, column, line, moment, moment_column, word
from plumd.cli.session import (
    PlumGroup,
    Session,
    each,
    file_option,
    limit_option,
    pass_session,
)
from plumd.sdk.client import JsonObject, object_of, part

RULES = "/v1/alarm-rules"
ALARMS = "/v1/alarms"
COLUMNS = (
    column("ID", "alarmId"), column("NAME", "name"), column("SEVERITY", "severity"),
    column("DEVICE", "resourceId"), column("STATE", "state"), column("VALUE", "value"),
    moment_column("RAISED", "raisedAt"), moment_column("CLEARED", "clearedAt"),
    moment_column("KNOWN", "acknowledgedAt"), column("BY", "acknowledgedBy"),
)


def condition(item: JsonObject) -> str:
    """`temp > 80 for 10 s`"""
    rule = item.get("rule")
    said = rule if isinstance(rule, dict) else {}
    held = word(said, "forSec")
    where = word(said, "resourceId") or word(said, "type") or "any"
    return line(f"{word(said, 'state')} {word(said, 'op')} {word(said, 'value')} of {where}"
                + (f" for {held} s" if held not in ("", "0", "0.0") else ""))


def rule_name(item: JsonObject) -> str:
    """A rule's name."""
    rule = item.get("rule")
    return word(rule, "name") if isinstance(rule, dict) else ""


RULE_COLUMNS = (column("ID", "ruleId"), Column("NAME", rule_name), Column("WHEN", condition),
                column("ACTIVE", "active"))


@click.group("alarm", cls=PlumGroup)
def group() -> None:
    """Alarms on states of devices."""


@group.command("list")
@click.option("--all", "every", is_flag=True, help="Also those that are over.")
@click.option("--device", metavar="ID", help="Only of this device.")
@limit_option
@pass_session
def list_alarms(session: Session, every: bool, device: str | None, limit: int) -> None:
    """List alarms that are active, newest first."""
    found = session.client.items(ALARMS, {"state": "all" if every else None,
                                          "resourceId": device}, limit=limit or None)
    session.screen.items(found, "alarmId", COLUMNS)


@group.command("get")
@click.argument("alarm_id", metavar="ID")
@pass_session
def get_alarm(session: Session, alarm_id: str) -> None:
    """Show an alarm."""
    one = session.client.get_object(f"{ALARMS}/{part(alarm_id)}")
    session.screen.item(one, "alarmId", [
        ("ID", word(one, "alarmId")), ("Name", word(one, "name")),
        ("Severity", word(one, "severity")), ("Device", word(one, "resourceId")),
        ("State", word(one, "state")), ("Value", word(one, "value")),
        ("Raised", moment(one, "raisedAt")), ("Cleared", moment(one, "clearedAt")),
        ("Cleared by", word(one, "clearedBy")), ("Known since", moment(one, "acknowledgedAt")),
        ("Known to", word(one, "acknowledgedBy")), ("Note", word(one, "note"))])


@group.command("ack")
@click.argument("alarm_ids", metavar="ID...", nargs=-1, required=True)
@click.option("--by", default="", metavar="TEXT", help="Who knows of it.")
@click.option("--note", default="", metavar="TEXT", help="What he says.")
@pass_session
def acknowledge(session: Session, alarm_ids: tuple[str, ...], by: str, note: str) -> None:
    """Say that somebody knows of alarms; they stay active until a value clears them."""
    def know(alarm_id: str) -> None:
        session.client.request("POST", f"{ALARMS}/{part(alarm_id)}", {"by": by, "note": note},
                               query={"action": "acknowledge"})
        session.screen.say(f"acknowledged {alarm_id}")

    each(session, alarm_ids, know)


@group.command("rules")
@pass_session
def list_rules(session: Session) -> None:
    """List the rules that raise them."""
    found = session.client.get(RULES)
    session.screen.items([one for one in (found if isinstance(found, list) else ())
                          if isinstance(one, dict)], "ruleId", RULE_COLUMNS)


@group.command("create-rule")
@file_option
@pass_session
def create_rule(session: Session, body: JsonObject) -> None:
    """Make a rule: name, state, op, value, hysteresis, forSec, resourceId or type, severity."""
    made = object_of(session.client.request("POST", RULES, body))
    session.screen.item(made, "ruleId", [("ID", word(made, "ruleId")),
                                         ("When", condition(made))])


@group.command("delete-rule")
@click.argument("rule_ids", metavar="ID...", nargs=-1, required=True)
@pass_session
def delete_rules(session: Session, rule_ids: tuple[str, ...]) -> None:
    """Delete rules; what is active of them is cleared."""
    def remove(rule_id: str) -> None:
        session.client.request("DELETE", f"{RULES}/{part(rule_id)}")
        session.screen.say(f"deleted {rule_id}")

    each(session, rule_ids, remove)
