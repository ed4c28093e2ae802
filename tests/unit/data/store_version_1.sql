-- Two runs as the first edition of the book wrote them, in schema version 1: "plain", and "kept"
-- with the states of earlier rounds. Each has 5 clients and three rounds of clients 0 and 3, 3 and
-- 1, 3 and 0. In round r client c has local weights 10 c + r and momentum -r; the server, r and -r.
CREATE TABLE stateful_schema (
  version INTEGER NOT NULL,
  PRIMARY KEY (version)
);
INSERT INTO stateful_schema VALUES(1);
CREATE TABLE stateful_runs (
  id INTEGER NOT NULL,
  name TEXT NOT NULL,
  about TEXT NOT NULL,
  plan TEXT,
  round INTEGER NOT NULL,
  crc32 BIGINT NOT NULL,
  state BLOB NOT NULL,
  PRIMARY KEY (id),
  UNIQUE (name)
);
INSERT INTO stateful_runs VALUES(1,'plain','{"num_clients": 5, "keep_states": false, "server model_weights[0]": "float32[3, 2]", "server optimizer_state[0]": "float32[3, 2]", "server round_num[0]": "int32[]", "client index[0]": "int32[]", "client local_weights[0]": "float32[1, 2]", "client optimizer_state[0]": "float32[1, 2]", "first_client_state": 780060902, "tensorflow": "2.14.1", "tensorflow-federated": "0.87.0", "numpy": "1.25.2", "rate": 0.5}','{"loop": "run_rounds", "cohort_size": 2, "epochs": 1, "seed": 3, "evaluate_every": 10}',3,2225933479,X'000040400000404000004040000040400000404000004040000040C0000040C0000040C0000040C0000040C0000040C003000000');
INSERT INTO stateful_runs VALUES(2,'kept','{"num_clients": 5, "keep_states": true, "server model_weights[0]": "float32[3, 2]", "server optimizer_state[0]": "float32[3, 2]", "server round_num[0]": "int32[]", "client index[0]": "int32[]", "client local_weights[0]": "float32[1, 2]", "client optimizer_state[0]": "float32[1, 2]", "first_client_state": 780060902, "tensorflow": "2.14.1", "tensorflow-federated": "0.87.0", "numpy": "1.25.2", "rate": 0.5}','{"loop": "run_rounds", "cohort_size": 2, "epochs": 1, "seed": 3, "evaluate_every": 10}',3,2225933479,X'000040400000404000004040000040400000404000004040000040C0000040C0000040C0000040C0000040C0000040C003000000');
CREATE TABLE stateful_clients (
  run INTEGER NOT NULL,
  client INTEGER NOT NULL,
  round INTEGER NOT NULL,
  crc32 BIGINT NOT NULL,
  state BLOB NOT NULL,
  PRIMARY KEY (run, client),
  FOREIGN KEY(run) REFERENCES stateful_runs (id)
) WITHOUT ROWID;
INSERT INTO stateful_clients VALUES(1,0,3,1050252914,X'000000000000404000004040000040C0000040C0');
INSERT INTO stateful_clients VALUES(1,1,2,1848780187,X'010000000000404100004041000000C0000000C0');
INSERT INTO stateful_clients VALUES(1,3,3,283023685,X'030000000000044200000442000040C0000040C0');
INSERT INTO stateful_clients VALUES(2,0,3,1050252914,X'000000000000404000004040000040C0000040C0');
INSERT INTO stateful_clients VALUES(2,1,2,1848780187,X'010000000000404100004041000000C0000000C0');
INSERT INTO stateful_clients VALUES(2,3,3,283023685,X'030000000000044200000442000040C0000040C0');
CREATE TABLE stateful_kept_states (
  run INTEGER NOT NULL,
  client INTEGER NOT NULL,
  round INTEGER NOT NULL,
  crc32 BIGINT NOT NULL,
  state BLOB NOT NULL,
  PRIMARY KEY (run, client, round),
  FOREIGN KEY(run) REFERENCES stateful_runs (id)
) WITHOUT ROWID;
INSERT INTO stateful_kept_states VALUES(2,0,1,1465448252,X'000000000000803F0000803F000080BF000080BF');
INSERT INTO stateful_kept_states VALUES(2,0,3,1050252914,X'000000000000404000004040000040C0000040C0');
INSERT INTO stateful_kept_states VALUES(2,1,2,1848780187,X'010000000000404100004041000000C0000000C0');
INSERT INTO stateful_kept_states VALUES(2,3,1,3156916890,X'030000000000F8410000F841000080BF000080BF');
INSERT INTO stateful_kept_states VALUES(2,3,2,4290310989,X'030000000000004200000042000000C0000000C0');
INSERT INTO stateful_kept_states VALUES(2,3,3,283023685,X'030000000000044200000442000040C0000040C0');
CREATE TABLE stateful_rounds (
  run INTEGER NOT NULL,
  round INTEGER NOT NULL,
  metrics TEXT NOT NULL,
  PRIMARY KEY (run, round),
  FOREIGN KEY(run) REFERENCES stateful_runs (id)
) WITHOUT ROWID;
INSERT INTO stateful_rounds VALUES(1,1,'{"round": 1, "loss": 1.0, "num_examples": 7, "seconds": 0.5, "preparation": 0.25}');
INSERT INTO stateful_rounds VALUES(1,2,'{"round": 2, "loss": 0.5, "num_examples": 7, "seconds": 0.5, "preparation": 0.25}');
INSERT INTO stateful_rounds VALUES(1,3,'{"round": 3, "loss": 0.3333333333333333, "num_examples": 7, "seconds": 0.5, "preparation": 0.25}');
INSERT INTO stateful_rounds VALUES(2,1,'{"round": 1, "loss": 1.0, "num_examples": 7, "seconds": 0.5, "preparation": 0.25}');
INSERT INTO stateful_rounds VALUES(2,2,'{"round": 2, "loss": 0.5, "num_examples": 7, "seconds": 0.5, "preparation": 0.25}');
INSERT INTO stateful_rounds VALUES(2,3,'{"round": 3, "loss": 0.3333333333333333, "num_examples": 7, "seconds": 0.5, "preparation": 0.25}');
