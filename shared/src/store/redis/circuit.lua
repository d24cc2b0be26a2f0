-- Writes a circuit. Returns whether it did.
-- KEYS: circuits, circuits:revision, circuits:latest.
-- ARGV: destination; the revision that must be stored ('' for none); revision; the circuit as JSON
-- ('' to remove it); its place (when it was written, plus 1e14 if it opened); the time before which
-- an unchanged circuit is deleted; milliseconds until all circuits expire unless one is written.
local OPENED, MAX_PURGED = 1e14, 10
local circuits, revisions, latest = unpack(KEYS)
local function forget(name)
  redis.call('HDEL', revisions, name)
  redis.call('HDEL', circuits, name)
  redis.call('ZREM', latest, name)
end
local function keep()
  for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, ARGV[7]) end
end
local destination = ARGV[1]
keep()
if (redis.call('HGET', revisions, destination) or '') ~= ARGV[2] then return 0 end
if ARGV[4] == '' then
  forget(destination)
else
  redis.call('HSET', revisions, destination, ARGV[3])
  redis.call('HSET', circuits, destination, ARGV[4])
  redis.call('ZADD', latest, ARGV[5], destination)
  for _, base in ipairs({ 0, OPENED }) do
    local from = string.format('%.0f', base)
    local to = string.format('(%.0f', base + tonumber(ARGV[6]))
    local stale = redis.call('ZRANGE', latest, from, to, 'BYSCORE', 'LIMIT', 0, MAX_PURGED)
    for _, name in ipairs(stale) do forget(name) end
  end
  keep()
end
return 1
