"""Rewriting: patterns, rules, the driver, the edit log, passes and pipelines."""

from graphopt.rewrite.driver import apply_rules, record_edit
from graphopt.rewrite.function_rule import FunctionRule, rule, rule_pass
from graphopt.rewrite.lint import Finding, lint
from graphopt.rewrite.log import Edit, EditLog
from graphopt.rewrite.match import Match, Refusal, match_node
from graphopt.rewrite.numerics import EXACT, REASSOCIATES, Numerics, lossy
from graphopt.rewrite.passes import Pass, PassContext, PassTable, Pipeline, RulePass
from graphopt.rewrite.pattern import NodePattern, Pattern, PatternOps, Var
from graphopt.rewrite.replay import replay
from graphopt.rewrite.rule import Rule

__all__ = [
    "EXACT",
    "REASSOCIATES",
    "Edit",
    "EditLog",
    "Finding",
    "FunctionRule",
    "Match",
    "NodePattern",
    "Numerics",
    "Pass",
    "PassContext",
    "PassTable",
    "Pattern",
    "PatternOps",
    "Pipeline",
    "Refusal",
    "Rule",
    "RulePass",
    "Var",
    "apply_rules",
    "lint",
    "lossy",
    "match_node",
    "record_edit",
    "replay",
    "rule",
    "rule_pass",
]
