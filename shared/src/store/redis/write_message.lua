-- Replaces the record of a message. Returns 'done', 'conflict' with the stored record, or
-- 'missing'.
-- ARGV: now, task, id, revision that the stored record must have, revision, due_at, expires_at,
-- record, how many deliveries were added to the plan.
local task = ARGV[2]
local old = load_message(w)
if not message_exists(w, old) or old.i ~= ARGV[3] then return { 'missing' } end
if old.v ~= ARGV[4] then
  local record = redis.call('HGET', w, 'r') or ''
  -- The same bytes are the same record: an earlier try of this write took effect.
  if record == ARGV[8] then return { 'done' } end
  return { 'conflict', record }
end
local new = { s = 'm', d = ARGV[6], x = ARGV[7], a = old.a, f = old.f, i = old.i }
redis.call('HSET', w, 'r', ARGV[8], 'v', ARGV[5], 'd', new.d, 'x', new.x)
if tonumber(ARGV[9]) > 0 then
  redis.call('HINCRBY', w, 'n', ARGV[9])
  redis.call('ZADD', status, 0, STATUS.pending .. ':' .. task)
end
move_times(task, old, new)
return { 'done' }
