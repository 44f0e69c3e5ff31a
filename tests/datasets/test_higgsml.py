import builtins
import gzip
import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pandas as pd
import pytest

from skhep_nn.datasets.higgsml import (
    HIGGSML_FEATURES,
    HIGGSML_TOTALS,
    fetch_higgsml,
    load_higgsml,
)
from skhep_nn.metrics import rescale_weights

CERN = ["EventId", *HIGGSML_FEATURES, "Weight", "Label", "KaggleSet", "KaggleWeight"]
TRAINING = ["EventId", *HIGGSML_FEATURES, "Weight", "Label"]
TEST = ["EventId", *HIGGSML_FEATURES]
N = 12


def make_table(columns, n=N):
    """Events as text fields, one dict a row; every number differs from its neighbours."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(n):
        row = {name: f"{rng.normal(50, 10):.3f}" for name in HIGGSML_FEATURES}
        row |= {
            "EventId": str(100000 + i),
            "PRI_jet_num": str(i % 4),
            "Weight": f"{rng.uniform(0, 2):.12f}",
            "Label": "sb"[i % 2],
            "KaggleSet": "tbvu"[i % 3],
            "KaggleWeight": f"{rng.uniform(0, 9):.12f}",
        }
        rows.append({name: row[name] for name in columns})
    return rows


def as_csv(rows):
    """The text of a csv file."""
    lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
    return "\n".join(lines) + "\n"


@pytest.fixture
def rows():
    table = make_table(CERN)
    table[1]["DER_mass_MMC"] = table[2]["PRI_jet_leading_pt"] = "-999.0"
    return table


@pytest.fixture
def load(tmp_path):
    """Load rows, text or bytes by way of a file."""

    def load(content, name="events.csv", **kwargs):
        if isinstance(content, list):
            content = as_csv(content)
        if isinstance(content, str):
            content = content.encode()
        path = tmp_path / name
        path.write_bytes(content)
        return load_higgsml(path, **kwargs)

    return load


def assert_same(left, right):
    pd.testing.assert_frame_equal(left.data, right.data, check_exact=True)
    for name in ("target", "sample_weight", "kaggle_set", "event_id"):
        np.testing.assert_array_equal(left[name], right[name])


class TestFormats:
    def test_cern(self, rows, load):
        higgs = load(rows)
        assert list(higgs.data) == higgs.feature_names == list(HIGGSML_FEATURES)
        types = dict.fromkeys(HIGGSML_FEATURES, np.float64) | {"PRI_jet_num": np.int64}
        assert higgs.data.dtypes.to_dict() == types
        for name in HIGGSML_FEATURES:
            expected = [float(row[name]) for row in rows]
            expected = [np.nan if value == -999 else value for value in expected]
            np.testing.assert_array_equal(higgs.data[name], expected)
        assert int(higgs.data.isna().sum().sum()) == 2
        assert higgs.target.tolist() == [row["Label"] for row in rows]
        assert higgs.kaggle_set.tolist() == [row["KaggleSet"] for row in rows]
        assert higgs.sample_weight.tolist() == [float(row["KaggleWeight"]) for row in rows]
        assert higgs.event_id.tolist() == [int(row["EventId"]) for row in rows]
        assert (higgs.target.dtype.kind, higgs.kaggle_set.dtype.kind) == ("U", "U")
        assert (higgs.sample_weight.dtype, higgs.event_id.dtype) == (np.float64, np.int64)
        assert "ATLAS" in higgs.DESCR

    def test_kaggle_training(self, load):
        rows = make_table(TRAINING)
        higgs = load(rows)
        assert higgs.sample_weight.tolist() == [float(row["Weight"]) for row in rows]
        assert higgs.target.tolist() == [row["Label"] for row in rows]
        assert higgs.kaggle_set is None

    def test_kaggle_test_has_no_labels(self, load):
        higgs = load(make_table(TEST))
        assert higgs.data.shape == (N, 30)
        assert higgs.target is higgs.sample_weight is higgs.kaggle_set is None

    @pytest.mark.parametrize("name", ["events.csv.gz", "events.csv"])
    def test_gzip_is_told_by_content(self, rows, load, name):
        assert_same(load(gzip.compress(as_csv(rows).encode()), name), load(rows))

    def test_plain_text_with_a_gz_name(self, rows, load):
        assert_same(load(rows, "events.csv.gz"), load(rows))

    def test_parquet(self, rows, load, tmp_path):
        pytest.importorskip("pyarrow")
        load(rows)
        raw = pd.read_csv(tmp_path / "events.csv")
        raw.to_parquet(tmp_path / "events.anything")
        assert_same(load_higgsml(tmp_path / "events.anything"), load(rows))
        # Where -999.0 was turned into NaN before, it is missing all the same.
        raw.replace(-999.0, np.nan).iloc[::-1].to_parquet(tmp_path / "nan.parquet")
        reverse = load_higgsml(tmp_path / "nan.parquet")
        pd.testing.assert_frame_equal(
            reverse.data.iloc[::-1].reset_index(drop=True), load(rows).data
        )

    def test_order_of_columns_other_columns_and_line_ends_do_not_matter(self, rows, load):
        shuffled = [dict(reversed(row.items())) | {"comment": "x"} for row in rows]
        text = "\ufeff" + as_csv(shuffled).replace("\n", "\r\n") + "\r\n\r\n"
        assert_same(load(text), load(rows))

    def test_numbers_are_read_to_the_last_digit(self, rows, load):
        values = np.random.default_rng(1).lognormal(3, 2, N)
        for row, value in zip(rows, values, strict=True):
            row["PRI_tau_pt"] = repr(float(value))
        np.testing.assert_array_equal(load(rows).data["PRI_tau_pt"], values)

    def test_path_as_text_and_home(self, rows, load, tmp_path, monkeypatch):
        expected = load(rows)
        monkeypatch.setenv("HOME", str(tmp_path))
        assert_same(load_higgsml(str(tmp_path / "events.csv")), expected)
        assert_same(load_higgsml("~/events.csv"), expected)


class TestSubset:
    @pytest.mark.parametrize("subset", ["t", "b", "bv", "vb"])
    def test_selects_rows_of_everything(self, rows, load, subset):
        whole, part = load(rows), load(rows, subset=subset)
        keep = [row["KaggleSet"] in subset for row in rows]
        pd.testing.assert_frame_equal(part.data, whole.data[keep].reset_index(drop=True))
        for name in ("target", "sample_weight", "kaggle_set", "event_id"):
            np.testing.assert_array_equal(part[name], whole[name][keep])

    @pytest.mark.parametrize("subset", ["x", "", "train", 3])
    def test_unknown(self, rows, load, subset):
        with pytest.raises(ValueError, match=f"subset={subset!r} must be letters"):
            load(rows, subset=subset)

    def test_matches_nothing(self, rows, load):
        with pytest.raises(ValueError, match=r"no event of subset='u', only of \['b', 't', 'v'\]"):
            load(rows, subset="u")

    def test_file_without_kaggle_set(self, load):
        with pytest.raises(ValueError, match="no column KaggleSet"):
            load(make_table(TRAINING), subset="t")


class TestBrokenFiles:
    @pytest.mark.parametrize("gone", [["EventId"], ["PRI_tau_pt", "DER_mass_MMC"]])
    def test_missing_columns_are_named(self, load, gone):
        table = make_table([name for name in CERN if name not in gone])
        with pytest.raises(ValueError, match="missing columns") as caught:
            load(table)
        assert all(name in str(caught.value) for name in gone)

    @pytest.mark.parametrize(("gone", "named"), [("Label", "Label"), ("Weight", "KaggleWeight")])
    def test_labels_and_weights_come_together(self, load, gone, named):
        with pytest.raises(ValueError, match=rf"missing columns \['.*{named}'\]"):
            load(make_table([name for name in TRAINING if name != gone]))

    @pytest.mark.parametrize("name", ["PRI_met", "Label", "EventId"])
    def test_a_column_twice(self, rows, load, name):
        lines = [
            f"{line},{extra}"
            for line, extra in zip(as_csv(rows).splitlines(), [name, *"1" * len(rows)], strict=True)
        ]
        with pytest.raises(ValueError, match=rf"events\.csv: columns \['{name}'\] are there more"):
            load("\n".join(lines))

    def test_no_header(self, rows, load):
        with pytest.raises(ValueError, match="missing columns"):
            load(as_csv(rows).split("\n", 1)[1])

    @pytest.mark.parametrize("columns", [CERN, TRAINING, TEST])
    def test_no_events(self, load, columns):
        with pytest.raises(ValueError, match="no events"):
            load(",".join(columns) + "\n")

    @pytest.mark.parametrize("content", [b"", b"\n", bytes(range(256)) * 9, b"<html>\n</html>\n"])
    def test_other_files(self, load, content):
        with pytest.raises(ValueError, match=r"events\.csv"):
            load(content)

    def test_absent_file(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            load_higgsml(tmp_path / "absent.csv")

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            (
                "Label",
                "x",
                r"row 7 \(EventId 100007\), column 'Label': got 'x', expected 's' or 'b'",
            ),
            ("Label", "", "column 'Label': got ''"),
            ("KaggleSet", "w", r"row 7 .*column 'KaggleSet': got 'w'"),
            ("PRI_tau_pt", "abc", r"row 7 \(line 9\) column 'PRI_tau_pt': 'abc' is not a number"),
            ("PRI_tau_pt", "", r"row 7 \(line 9\) column 'PRI_tau_pt': '' is not a number"),
            ("PRI_tau_pt", "nan", "row 7 .*column 'PRI_tau_pt'.*nan"),
            ("PRI_tau_pt", "inf", "row 7 .*column 'PRI_tau_pt'.*inf"),
            ("PRI_tau_pt", "1_0", "row 7 .*column 'PRI_tau_pt': '1_0' is not a number"),
            ("PRI_jet_num", "1.5", "row 7 .*column 'PRI_jet_num': got .*whole number"),
            ("PRI_jet_num", "-999.0", "row 7 .*column 'PRI_jet_num': got .*whole number"),
            ("EventId", "1.5", r"row 7 \(EventId 1\.5\), column 'EventId': got .*whole number"),
            ("EventId", "x", r"row 7 \(line 9\) column 'EventId'"),
            ("EventId", "1e19", r"row 7 .*column 'EventId': got .*1e\+19.*below 2\*\*53"),
            ("EventId", "9007199254740993", r"row 7 .*column 'EventId'.*below 2\*\*53"),
            ("KaggleWeight", "-", r"row 7 \(line 9\) column 'KaggleWeight'"),
            ("Weight", "s", r"row 7 \(line 9\) column 'Weight'"),
        ],
    )
    @pytest.mark.parametrize("pack", [str.encode, lambda text: gzip.compress(text.encode())])
    def test_wrong_value(self, rows, load, name, value, message, pack):
        rows[7][name] = value
        with pytest.raises(ValueError, match=message):
            load(pack(as_csv(rows)))

    @pytest.mark.parametrize("columns", [CERN, TRAINING, TEST])
    @pytest.mark.parametrize("row", [0, 7, N - 1])
    @pytest.mark.parametrize("change", ["short", "cut", "long", "empty"])
    def test_wrong_number_of_fields(self, load, columns, row, change):
        lines = as_csv(make_table(columns)).splitlines()
        line = lines[row + 1]
        lines[row + 1] = {
            "short": line.rsplit(",", 1)[0],
            "cut": line[: len(line) // 2],
            "long": line + ",1.0",
            "empty": line + ",",
        }[change]
        message = rf"row {row} \(line {row + 2}\) has \d+ fields, expected {len(columns)}"
        if change == "short" and columns is TRAINING:
            message = rf"row {row} .*column 'Label': got ''"
        with pytest.raises(ValueError, match=message):
            load("\n".join(lines) + "\n")

    @pytest.mark.parametrize("columns", [CERN, TRAINING, TEST])
    def test_all_rows_longer_than_the_header(self, load, columns):
        header, *lines = as_csv(make_table(columns)).splitlines()
        text = "\n".join([header, *(line + ",1.0" for line in lines)])
        with pytest.raises(ValueError, match=r"row 0 \(line 2\) has \d+ fields"):
            load(text)

    def test_blank_lines_count_as_lines_but_not_as_rows(self, rows, load):
        rows[2]["PRI_met"] = "?"
        text = as_csv(rows).replace("\n", "\n\n")
        with pytest.raises(ValueError, match=r"row 2 \(line 7\) column 'PRI_met'"):
            load(text)

    def test_truncated_gzip(self, load):
        packed = gzip.compress(as_csv(make_table(CERN, 500)).encode())
        with pytest.raises(ValueError, match=r"cut off or damaged after \d+ whole rows"):
            load(packed[: len(packed) // 2])

    def test_truncated_inside_the_gzip_header(self, load):
        with pytest.raises(ValueError, match="no readable csv, gzip or parquet"):
            load(gzip.compress(b"x")[:5])

    def test_damaged_gzip(self, load):
        packed = bytearray(gzip.compress(as_csv(make_table(CERN)).encode()))
        packed[-6] ^= 0xFF  # inside the checksum
        with pytest.raises(ValueError, match="12 whole rows: CRC check failed"):
            load(bytes(packed))

    def test_truncated_parquet(self, rows, load, tmp_path):
        pytest.importorskip("pyarrow")
        load(rows)
        pd.read_csv(tmp_path / "events.csv").to_parquet(tmp_path / "whole.parquet")
        content = (tmp_path / "whole.parquet").read_bytes()
        with pytest.raises(ValueError, match="cut off or no parquet file"):
            load(content[: len(content) // 2])

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("PRI_tau_pt", "abc", r"row 3 \(EventId 100003\), column 'PRI_tau_pt': got 'abc'"),
            ("PRI_met", np.inf, r"row 3 .*column 'PRI_met': got .*inf"),
            ("KaggleWeight", np.nan, r"row 3 .*column 'KaggleWeight': got .*nan"),
            ("PRI_jet_num", np.nan, r"row 3 .*column 'PRI_jet_num': got .*nan"),
            ("Label", None, r"row 3 .*column 'Label': got"),
            ("EventId", "one", r"row 3 \(EventId one\), column 'EventId': got 'one'"),
        ],
    )
    def test_wrong_value_in_parquet(self, rows, load, tmp_path, name, value, message):
        pytest.importorskip("pyarrow")
        load(rows)
        raw = pd.read_csv(tmp_path / "events.csv")
        column = raw[name].astype(object).to_list()
        column[3] = value
        if isinstance(value, str):
            column = [str(element) for element in column]
        raw[name] = column
        raw.to_parquet(tmp_path / "bad.parquet")
        with pytest.raises(ValueError, match=message):
            load_higgsml(tmp_path / "bad.parquet")

    def test_times_are_no_numbers(self, rows, load, tmp_path):
        pytest.importorskip("pyarrow")
        load(rows)
        raw = pd.read_csv(tmp_path / "events.csv").assign(PRI_met=pd.Timestamp(0))
        raw.to_parquet(tmp_path / "bad.parquet")
        with pytest.raises(ValueError, match=r"row 0 .*column 'PRI_met': got Timestamp.*a number"):
            load_higgsml(tmp_path / "bad.parquet")


class TestRealExcerpt:
    def test_agrees_with_a_plain_read(self, data_dir, higgsml_excerpt):
        higgs = load_higgsml(data_dir / "higgsml_excerpt.csv.gz", subset="t")
        pd.testing.assert_frame_equal(
            higgs.data, higgsml_excerpt[list(HIGGSML_FEATURES)], check_exact=True
        )
        np.testing.assert_array_equal(higgs.target, higgsml_excerpt["Label"].to_numpy(dtype=str))
        np.testing.assert_array_equal(higgs.sample_weight, higgsml_excerpt["KaggleWeight"])
        assert set(higgs.kaggle_set) == {"t"}
        assert np.bincount(higgs.data["PRI_jet_num"], minlength=4).min() > 0
        # Without a jet there is no leading jet; with one there is.
        no_jet = higgs.data["PRI_jet_num"] == 0
        assert (higgs.data["PRI_jet_leading_pt"].isna() == no_jet).all()

    def test_totals_are_those_of_the_whole_training_set(self, data_dir):
        higgs = load_higgsml(data_dir / "higgsml_excerpt.csv.gz")
        ratios = rescale_weights(higgs.target, higgs.sample_weight, HIGGSML_TOTALS)
        ratios /= higgs.sample_weight
        # 16,022 of 250,000 events, drawn without regard to class or weight.
        np.testing.assert_allclose(ratios, 250_000 / 16_022, rtol=0.03)


class FileServer(ThreadingHTTPServer):
    """A local server of one file, which counts requests and can misbehave."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), FileHandler)
        self.content, self.status, self.keep, self.requests = b"", 200, None, 0
        self.url = f"http://127.0.0.1:{self.server_port}/events.csv.gz"


class FileHandler(BaseHTTPRequestHandler):
    server: FileServer

    def do_GET(self):
        self.server.requests += 1
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(self.server.content)))
        if "gzip" in self.headers["Accept-Encoding"]:
            # As some servers do for files that end in .gz: the client would unpack them.
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        self.wfile.write(self.server.content[: self.server.keep])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(rows, monkeypatch):
    pytest.importorskip("pooch")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with FileServer() as http:
        http.content = gzip.compress(as_csv(rows).encode())
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield http
        http.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


class TestFetch:
    def test_downloads_once(self, server, cache, rows, load):
        first = fetch_higgsml(url=server.url, data_home=cache)
        assert_same(first, load(rows))
        again = fetch_higgsml(url=server.url, data_home=cache, subset="t")
        assert_same(again, load(rows, subset="t"))
        assert server.requests == 1
        assert [path.name for path in files(cache)] == ["atlas-higgs-challenge-2014-v2.csv.gz"]

    def test_force_downloads_again(self, server, cache):
        fetch_higgsml(url=server.url, data_home=cache)
        newer = make_table(CERN, 5)
        server.content = gzip.compress(as_csv(newer).encode())
        assert len(fetch_higgsml(url=server.url, data_home=cache).target) == N
        assert len(fetch_higgsml(url=server.url, data_home=cache, force=True).target) == 5
        assert len(fetch_higgsml(url=server.url, data_home=cache).target) == 5
        assert server.requests == 2
        assert [path.name for path in cache.iterdir()] == ["atlas-higgs-challenge-2014-v2.csv.gz"]

    def test_force_into_a_new_folder(self, server, cache):
        assert len(fetch_higgsml(url=server.url, data_home=cache, force=True).target) == N

    def test_environment_variable(self, server, cache, monkeypatch):
        monkeypatch.setenv("SKHEP_NN_DATA_HOME", str(cache))
        fetch_higgsml(url=server.url)
        assert len(files(cache)) == 1

    def test_known_hash(self, server, cache):
        good = "sha256:" + hashlib.sha256(server.content).hexdigest()
        with pytest.raises(OSError, match=r"could not download .*hash"):
            fetch_higgsml(url=server.url, data_home=cache, known_hash="sha256:" + "0" * 64)
        assert files(cache) == []
        assert len(fetch_higgsml(url=server.url, data_home=cache, known_hash=good).target) == N

    @staticmethod
    def spoil(server, how):
        content = server.content
        if how == "cut off":  # fewer bytes than Content-Length says
            server.keep = len(content) // 2
        elif how == "cut at the source":  # Content-Length fits, gzip has no end
            server.content = content[: len(content) // 2]
        elif how == "damaged":
            server.content = content[:-6] + bytes([content[-6] ^ 0xFF]) + content[-5:]
        elif how == "no gzip":
            server.content = b"<html>maintenance</html>"
        elif how == "another file":
            server.content = gzip.compress(b"a,b,c\n1,2,3\n")
        elif how == "empty":
            server.content = b""
        elif how == "not found":
            server.status = 404
        return content

    @pytest.mark.parametrize(
        ("how", "message"),
        [
            ("cut off", "could not download"),
            ("cut at the source", "cut off or not a gzip file"),
            ("damaged", "CRC check failed"),
            ("no gzip", "cut off or not a gzip file"),
            ("another file", "missing columns"),
            ("empty", "missing columns"),
            ("not found", "404"),
        ],
    )
    @pytest.mark.parametrize("force", [False, True])
    def test_failure_keeps_nothing_and_the_next_call_succeeds(
        self, server, cache, how, message, force
    ):
        content = self.spoil(server, how)
        with pytest.raises(OSError, match=message) as caught:
            fetch_higgsml(url=server.url, data_home=cache, force=force)
        assert server.url in str(caught.value)
        assert list(cache.iterdir()) == []
        server.content, server.status, server.keep = content, 200, None
        assert len(fetch_higgsml(url=server.url, data_home=cache, force=force).target) == N
        assert server.requests == 2

    def test_failed_force_keeps_the_old_file(self, server, cache):
        fetch_higgsml(url=server.url, data_home=cache)
        self.spoil(server, "cut off")
        with pytest.raises(OSError, match="could not download"):
            fetch_higgsml(url=server.url, data_home=cache, force=True)
        assert len(fetch_higgsml(url=server.url, data_home=cache).target) == N
        assert len(list(cache.iterdir())) == 1

    def test_nobody_listens(self, server, cache):
        server.server_close()
        with pytest.raises(OSError, match="could not download"):
            fetch_higgsml(url=server.url, data_home=cache)
        assert list(cache.iterdir()) == []

    def test_without_pooch(self, cache, monkeypatch):
        real_import = builtins.__import__

        def no_pooch(name, *args, **kwargs):
            if name == "pooch":
                raise ImportError(name)
            return real_import(name, *args, **kwargs)

        monkeypatch.setattr(builtins, "__import__", no_pooch)
        with pytest.raises(ImportError, match=r"skhep_nn\[fetch\]"):
            fetch_higgsml(data_home=cache)
