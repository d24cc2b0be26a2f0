-- Replaces a record. Returns 'done' with the content if it is wanted, 'conflict' with the stored
-- record, or 'missing'.
-- ARGV: now, task, id, revision that the stored record must have, whether the content is wanted,
-- revision, status, due_at, archived_at, expires_at, record, the process and claim ('' for none).
local task = ARGV[2]
local old = load()
if not old or is_expired(old) or old.i ~= ARGV[3] then return { 'missing' } end
local function done()
  if ARGV[5] ~= '1' then return { 'done' } end
  local found = content()
  return { 'done', found[1], found[2], found[3] }
end
if old.v ~= ARGV[4] then
  local record = redis.call('HGET', w, 'r') or ''
  -- The same bytes are the same record: an earlier try of this write took effect.
  if record == ARGV[11] then return done() end
  return { 'conflict', record }
end
local answer = done()
local new = {
  v = ARGV[6], s = ARGV[7], d = ARGV[8], a = ARGV[9], x = ARGV[10], f = old.f, i = old.i,
}
redis.call(
  'HSET', w, 'r', ARGV[11], 'v', new.v, 's', new.s, 'd', new.d, 'a', new.a, 'x', new.x
)
if ARGV[12] ~= '' then redis.call('HSET', w, 'o', ARGV[12]) end
move(task, old, new)
return answer
