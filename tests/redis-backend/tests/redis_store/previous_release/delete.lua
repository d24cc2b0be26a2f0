-- Deletes a webhook. Returns 'deleted', 'missing' or 'changed'.
-- ARGV: now, task, id, revision that the stored record must have ('' for any), when the tombstone
-- expires, its text.
local task = ARGV[2]
local kind = redis.call('TYPE', w).ok
if kind == 'none' then return 'missing' end
if kind ~= 'hash' then
  -- Another program wrote under this key. Nothing tells which index entries the webhook had, so
  -- delete every entry that it can have had.
  for _, code in pairs(STATUS) do redis.call('ZREM', status, code .. ':' .. task) end
  redis.call('ZREM', time, task)
  redis.call('ZREM', ref, task)
  redis.call('ZREM', due, ARGV[3])
  redis.call('UNLINK', w, c)
  add_tombstone(ARGV[6], ARGV[5])
  return 'deleted'
end
local found = load()
if not found or found.i ~= ARGV[3] then return 'missing' end
if ARGV[4] ~= '' and found.v ~= ARGV[4] then
  return is_expired(found) and 'missing' or 'changed'
end
remove(task, found)
add_tombstone(ARGV[6], ARGV[5])
return is_expired(found) and 'missing' or 'deleted'
