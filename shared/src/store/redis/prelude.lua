-- What every script of the store begins with. ARGV[1] is the prefix of all keys, ARGV[2] the time now in milliseconds.
--
-- w:TASK  the record: r its JSON, v revision, s status, d due_at, a archived_at (15 digits, only of dead letters), x expires_at,
--         f reference id (only if the caller gave it), i the webhook's id. What there is none of is the empty string.
-- c:TASK  the content: u URL, h headers as JSON, p payload.
--
-- time          all, by task id           ref:REFERENCE        the same, of one reference id
-- status:S      all but delivered         due                  ids by due_at
-- dead          archived_at:TASK          dead:REFERENCE       the same, of one reference id
-- expiry        what to forget, by expires_at: names all entries, so the record itself may be gone by then
-- counts        webhooks by status
local p, now = ARGV[1], tonumber(ARGV[2])
local DELIVERED = '3'
-- A record goes by itself this long after its time, and its content later still: by then the indexes have let go of it.
local LINGER_MS = 3600000

local function load(task)
  local w = redis.call('HMGET', p .. 'w:' .. task, 'v', 's', 'd', 'a', 'x', 'f', 'i')
  if not w[1] then return nil end
  return { v = w[1], s = w[2] or '', d = w[3] or '', a = w[4] or '', x = w[5] or '', f = w[6] or '', i = w[7] or '' }
end

local function is_expired(w) return w.x ~= '' and tonumber(w.x) <= now end

local function expiry_entry(task, w) return table.concat({ task, w.s, w.a, w.f, w.i }, '|') end

local function dead_letter(command, task, w)
  if w.a == '' then return end
  local member = w.a .. ':' .. task
  local lists = { p .. 'dead' }
  if w.f ~= '' then lists[2] = p .. 'dead:' .. w.f end
  for _, list in ipairs(lists) do
    if command == 'ZADD' then redis.call('ZADD', list, 0, member) else redis.call('ZREM', list, member) end
  end
end

-- Index entries follow from the record `old` to the record `new`; an `old` without a status is none.
local function move(task, old, new)
  if old.s ~= new.s then
    if old.s then
      if old.s ~= DELIVERED then redis.call('ZREM', p .. 'status:' .. old.s, task) end
      redis.call('HINCRBY', p .. 'counts', old.s, -1)
    end
    if new.s ~= DELIVERED then redis.call('ZADD', p .. 'status:' .. new.s, 0, task) end
    redis.call('HINCRBY', p .. 'counts', new.s, 1)
  end
  if old.d ~= new.d then
    if new.d ~= '' then redis.call('ZADD', p .. 'due', new.d, new.i) else redis.call('ZREM', p .. 'due', new.i) end
  end
  if old.a ~= new.a then
    dead_letter('ZREM', task, old)
    dead_letter('ZADD', task, new)
  end
  if old.x ~= '' then redis.call('ZREM', p .. 'expiry', expiry_entry(task, old)) end
  if new.x ~= '' then
    redis.call('ZADD', p .. 'expiry', new.x, expiry_entry(task, new))
    redis.call('PEXPIREAT', p .. 'w:' .. task, string.format('%.0f', tonumber(new.x) + LINGER_MS))
    redis.call('PEXPIREAT', p .. 'c:' .. task, string.format('%.0f', tonumber(new.x) + 2 * LINGER_MS))
  elseif old.x ~= '' then
    redis.call('PERSIST', p .. 'w:' .. task)
    redis.call('PERSIST', p .. 'c:' .. task)
  end
end

-- Nothing is left of the webhook.
local function remove(task, w)
  redis.call('UNLINK', p .. 'w:' .. task, p .. 'c:' .. task)
  redis.call('ZREM', p .. 'time', task)
  if w.s ~= DELIVERED then redis.call('ZREM', p .. 'status:' .. w.s, task) end
  redis.call('HINCRBY', p .. 'counts', w.s, -1)
  if w.f ~= '' then redis.call('ZREM', p .. 'ref:' .. w.f, task) end
  if w.d ~= '' then redis.call('ZREM', p .. 'due', w.i) end
  dead_letter('ZREM', task, w)
  if w.x ~= '' then redis.call('ZREM', p .. 'expiry', expiry_entry(task, w)) end
end

-- Forgets what has expired, at most `max` webhooks; how many.
local function purge(max)
  local entries = redis.call('ZRANGE', p .. 'expiry', '-inf', ARGV[2], 'BYSCORE', 'LIMIT', 0, max)
  for _, entry in ipairs(entries) do
    local task, s, a, f, i = string.match(entry, '^([^|]*)|([^|]*)|([^|]*)|([^|]*)|([^|]*)$')
    if task then
      remove(task, { s = s, a = a, f = f, i = i, d = '', x = 'over' })
    else
      redis.call('ZREM', p .. 'expiry', entry)
    end
  end
  return #entries
end

local function content(task) return redis.call('HMGET', p .. 'c:' .. task, 'u', 'h', 'p') end
