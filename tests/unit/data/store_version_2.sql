-- The runs of store_version_1.sql, as schema version 2 wrote them.
CREATE TABLE stateful_schema (
  version INTEGER NOT NULL,
  PRIMARY KEY (version)
);
INSERT INTO stateful_schema VALUES(2);
CREATE TABLE stateful_runs (
  id INTEGER NOT NULL,
  name TEXT NOT NULL,
  about TEXT NOT NULL,
  plan TEXT,
  round INTEGER NOT NULL,
  num_visited BIGINT NOT NULL,
  clients_crc32 BIGINT NOT NULL,
  crc32 BIGINT NOT NULL,
  state BLOB NOT NULL,
  PRIMARY KEY (id),
  UNIQUE (name)
);
INSERT INTO stateful_runs VALUES(1,'plain','{"num_clients": 5, "keep_states": false, "server model_weights[0]": "float32[3, 2]", "server optimizer_state[0]": "float32[3, 2]", "server round_num[0]": "int32[]", "client index[0]": "int32[]", "client local_weights[0]": "float32[1, 2]", "client optimizer_state[0]": "float32[1, 2]", "client last_round[0]": "int32[]", "client num_visits[0]": "int32[]", "first_client_state": 2427903927, "tensorflow": "2.14.1", "tensorflow-federated": "0.87.0", "numpy": "1.25.2", "settings": {"rate": 0.5}}','{"sampler": "draw", "batch_size": 5}',3,3,3522647500,2225933479,X'000040400000404000004040000040400000404000004040000040C0000040C0000040C0000040C0000040C0000040C003000000');
INSERT INTO stateful_runs VALUES(2,'kept','{"num_clients": 5, "keep_states": true, "server model_weights[0]": "float32[3, 2]", "server optimizer_state[0]": "float32[3, 2]", "server round_num[0]": "int32[]", "client index[0]": "int32[]", "client local_weights[0]": "float32[1, 2]", "client optimizer_state[0]": "float32[1, 2]", "client last_round[0]": "int32[]", "client num_visits[0]": "int32[]", "first_client_state": 2427903927, "tensorflow": "2.14.1", "tensorflow-federated": "0.87.0", "numpy": "1.25.2", "settings": {"rate": 0.5}}','{"sampler": "UniformSampler(clients=5, cohort_size=2, seed=0)", "batch_size": 5}',3,3,3522647500,2225933479,X'000040400000404000004040000040400000404000004040000040C0000040C0000040C0000040C0000040C0000040C003000000');
CREATE TABLE stateful_clients (
  run INTEGER NOT NULL,
  client INTEGER NOT NULL,
  last_round INTEGER NOT NULL,
  num_visits INTEGER NOT NULL,
  crc32 BIGINT NOT NULL,
  state BLOB NOT NULL,
  PRIMARY KEY (run, client),
  FOREIGN KEY(run) REFERENCES stateful_runs (id)
) WITHOUT ROWID;
INSERT INTO stateful_clients VALUES(1,0,3,2,129074310,X'000000000000404000004040000040C0000040C00300000002000000');
INSERT INTO stateful_clients VALUES(1,1,2,1,526675559,X'010000000000404100004041000000C0000000C00200000001000000');
INSERT INTO stateful_clients VALUES(1,3,3,3,2866897631,X'030000000000044200000442000040C0000040C00300000003000000');
INSERT INTO stateful_clients VALUES(2,0,3,2,129074310,X'000000000000404000004040000040C0000040C00300000002000000');
INSERT INTO stateful_clients VALUES(2,1,2,1,526675559,X'010000000000404100004041000000C0000000C00200000001000000');
INSERT INTO stateful_clients VALUES(2,3,3,3,2866897631,X'030000000000044200000442000040C0000040C00300000003000000');
CREATE TABLE stateful_kept_states (
  run INTEGER NOT NULL,
  client INTEGER NOT NULL,
  round INTEGER NOT NULL,
  crc32 BIGINT NOT NULL,
  state BLOB NOT NULL,
  PRIMARY KEY (run, client, round),
  FOREIGN KEY(run) REFERENCES stateful_runs (id)
) WITHOUT ROWID;
INSERT INTO stateful_kept_states VALUES(2,0,1,140600246,X'000000000000803F0000803F000080BF000080BF0100000001000000');
INSERT INTO stateful_kept_states VALUES(2,0,3,129074310,X'000000000000404000004040000040C0000040C00300000002000000');
INSERT INTO stateful_kept_states VALUES(2,1,2,526675559,X'010000000000404100004041000000C0000000C00200000001000000');
INSERT INTO stateful_kept_states VALUES(2,3,1,1483850496,X'030000000000F8410000F841000080BF000080BF0100000001000000');
INSERT INTO stateful_kept_states VALUES(2,3,2,1459466611,X'030000000000004200000042000000C0000000C00200000002000000');
INSERT INTO stateful_kept_states VALUES(2,3,3,2866897631,X'030000000000044200000442000040C0000040C00300000003000000');
CREATE TABLE stateful_rounds (
  run INTEGER NOT NULL,
  round INTEGER NOT NULL,
  crc32 BIGINT NOT NULL,
  metrics TEXT NOT NULL,
  PRIMARY KEY (run, round),
  FOREIGN KEY(run) REFERENCES stateful_runs (id)
) WITHOUT ROWID;
INSERT INTO stateful_rounds VALUES(1,1,1460358225,'{"round": 1, "loss": 1.0}');
INSERT INTO stateful_rounds VALUES(1,2,2210247944,'{"round": 2, "loss": 0.5}');
INSERT INTO stateful_rounds VALUES(1,3,3368113292,'{"round": 3, "loss": 0.3333333333333333}');
INSERT INTO stateful_rounds VALUES(2,1,1460358225,'{"round": 1, "loss": 1.0}');
INSERT INTO stateful_rounds VALUES(2,2,2210247944,'{"round": 2, "loss": 0.5}');
INSERT INTO stateful_rounds VALUES(2,3,3368113292,'{"round": 3, "loss": 0.3333333333333333}');
