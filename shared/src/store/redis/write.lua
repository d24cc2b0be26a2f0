-- Replaces a record, or creates that of a delivery from revision 0. Returns 'done' with the content
-- if it is wanted, 'conflict' with the stored record, or 'missing'.
-- ARGV: now, task, id, revision that the stored record must have, whether the content is wanted,
-- revision, status, due_at, archived_at, expires_at, record, the process and claim ('' for none),
-- the application of a delivery ('' for a direct webhook).
local task, application = ARGV[2], ARGV[13]
local message = application ~= '' and ref
local old = load()
local is_first = message and not old and ARGV[4] == '0'
if is_first then
  local of = load_message(message)
  if not message_exists(message, of) or string.sub(ARGV[3], 1, #of.i + 1) ~= of.i .. '.' then
    return { 'missing' }
  end
  -- A marker occupies the key, or an expired record that housekeeping has deleted.
  if redis.call('HEXISTS', w, 'z') == 1 then return { 'missing' } end
  old = { v = '0', d = '', a = '', x = '', f = application, i = ARGV[3] }
end
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
if is_first then
  redis.call('HSET', w, 'f', new.f, 'i', new.i)
  begin_delivery(message, task)
end
if message then hold(message, task, new) end
if ARGV[12] ~= '' then redis.call('HSET', w, 'o', ARGV[12]) end
move(task, old, new)
return answer
