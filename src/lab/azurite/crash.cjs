// Gives Azurite the death of a durable store; see azurite.rs.
//
// Azurite holds its tables in LokiJS databases, which it saves every five seconds. On SIGUSR2 this script saves them
// and ends the process with SIGKILL, in one turn of the event loop: no request is handled in between, none is answered
// any more. Extents need nothing: they are in files before a write is acknowledged.
"use strict";

const fs = require("node:fs");
const { createRequire } = require("node:module");

// Azurite's own copy, found from its main script.
const Loki = createRequire(process.argv[1])("lokijs");

const databases = new Set();
let saving = 0;
let crashing = false;

// Each database is saved once when it is opened, so this sees them all.
const saveDatabase = Loki.prototype.saveDatabase;
Loki.prototype.saveDatabase = function (callback) {
  databases.add(this);
  saving += 1;
  return saveDatabase.call(this, (error) => {
    saving -= 1;
    if (typeof callback === "function") callback(error);
    if (crashing) crash();
  });
};

process.on("SIGUSR2", () => {
  crashing = true;
  crash();
});

function crash() {
  // A save that is under way would rename its older copy over ours: it ends first, and calls us again.
  if (saving > 0) return;
  for (const database of databases) {
    if (database.persistenceMethod !== "fs") continue;
    const copy = `${database.filename}.crash`;
    fs.writeFileSync(copy, database.serialize());
    fs.renameSync(copy, database.filename);
  }
  process.kill(process.pid, "SIGKILL");
}
