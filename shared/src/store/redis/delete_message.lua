-- Deletes a message. Returns 'deleted', 'missing' or 'changed'.
-- ARGV: now, task, id, revision that the stored record must have, when the tombstone expires, its
-- text.
local found = load_message(w)
if not message_exists(w, found) or found.i ~= ARGV[3] then return 'missing' end
if found.v ~= ARGV[4] then return 'changed' end
remove_message(ARGV[2], found, KEYS[9], KEYS[10])
add_tombstone(ARGV[6], ARGV[5])
return 'deleted'
