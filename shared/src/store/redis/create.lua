-- ARGV: prefix, now, task, id, reference, revision, status, due_at, archived_at, expires_at, record, url, headers, payload, whether
-- an earlier try may have taken effect. Answers the record that is there already, if there is one.
local task = ARGV[3]
-- Each create takes two of those along that have expired, so they never pile up.
purge(2)
local found = load(task)
if found and not is_expired(found) then
  local record = redis.call('HGET', p .. 'w:' .. task, 'r') or ''
  if ARGV[15] == '1' and record == ARGV[11] then return false end
  return record
end
if found then remove(task, found) end
local new = { v = ARGV[6], s = ARGV[7], d = ARGV[8], a = ARGV[9], x = ARGV[10], f = ARGV[5], i = ARGV[4] }
redis.call('HSET', p .. 'c:' .. task, 'u', ARGV[12], 'h', ARGV[13], 'p', ARGV[14])
redis.call('HSET', p .. 'w:' .. task, 'r', ARGV[11], 'v', new.v, 's', new.s, 'd', new.d, 'a', new.a, 'x', new.x, 'f', new.f, 'i', new.i)
redis.call('ZADD', p .. 'time', 0, task)
if new.f ~= '' then redis.call('ZADD', p .. 'ref:' .. new.f, 0, task) end
move(task, { d = '', a = '', x = '' }, new)
return false
