-- ARGV: prefix, now, task, id, revision that the stored record must have, revision, status, due_at, archived_at, expires_at, record,
-- whether the content is wanted.
local task = ARGV[3]
local old = load(task)
if not old or is_expired(old) or old.i ~= ARGV[4] then return { 'missing' } end
local function done()
  if ARGV[12] ~= '1' then return { 'done' } end
  local c = content(task)
  return { 'done', c[1], c[2], c[3] }
end
if old.v ~= ARGV[5] then
  local record = redis.call('HGET', p .. 'w:' .. task, 'r') or ''
  -- The same bytes are the same record: an earlier try of this write had taken effect.
  if record == ARGV[11] then return done() end
  return { 'conflict', record }
end
local answer = done()
local new = { v = ARGV[6], s = ARGV[7], d = ARGV[8], a = ARGV[9], x = ARGV[10], f = old.f, i = old.i }
redis.call('HSET', p .. 'w:' .. task, 'r', ARGV[11], 'v', new.v, 's', new.s, 'd', new.d, 'a', new.a, 'x', new.x)
move(task, old, new)
return answer
