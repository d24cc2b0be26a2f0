-- Creates a message.
-- ARGV: now, task, id, application, '1' if the caller gave the reference id, a random name of this
-- call, revision, due_at, expires_at, record, how many deliveries are planned, payload, whether
-- memory is nearly full.
-- Returns the record that exists, as many entries of this shard's expiry index as the message makes
-- itself, and the tombstone of the id or 'full'.
local task, planned = ARGV[2], tonumber(ARGV[11])
local messages, references = KEYS[9], KEYS[10]
-- The message expires, each delivery's record does, and so does what occupies its key then.
local EXPIRES, EXPIRES_PER_DELIVERY = 1, 2
local function some_expired()
  local count = 2 * EXPIRES + EXPIRES_PER_DELIVERY * planned
  return redis.call('ZRANGE', expiry, '-inf', ARGV[1], 'BYSCORE', 'LIMIT', 0, count)
end
local record = redis.call('HGET', w, 'r')
if record then
  local found = load_message(w)
  -- An earlier try of this call took effect.
  if found and found.t == ARGV[6] then return { false, {}, false } end
  if not found or message_exists(w, found) then return { record, {}, false } end
  remove_message(task, found, messages, references)
end
local tombstone = redis.call('HGET', w, 'z')
if tombstone then return { false, {}, tombstone } end
if ARGV[13] == '1' then return { false, some_expired(), 'full' } end
local new = { s = 'm', d = ARGV[8], x = ARGV[9], a = ARGV[5], f = ARGV[4], i = ARGV[3] }
redis.call('HSET', c, 'u', '', 'h', '', 'p', ARGV[12])
redis.call(
  'HSET', w, 'r', ARGV[10], 'v', ARGV[7], 'd', new.d, 'x', new.x, 't', ARGV[6], 'f', new.f,
  'b', new.a, 'm', new.i, 'n', ARGV[11]
)
redis.call('ZADD', time, 0, task)
redis.call('ZADD', messages, 0, task)
if new.a ~= '' then redis.call('ZADD', references, 0, task) end
if planned > 0 then redis.call('ZADD', status, 0, STATUS.pending .. ':' .. task) end
move_times(task, { d = '', x = '' }, new)
return { false, some_expired(), false }
